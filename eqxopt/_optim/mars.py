"""MARS."""

from typing import NamedTuple

import jax.numpy as jnp

from .._abstract.leafwise import AbstractLeafwiseOptimizer
from .._dtype import real_zeros_like, zeros_like
from .._fields import (
    DType,
    dtype_option,
    Hyperparameter,
    hyperparameter,
    mask_of,
    OptionalMask,
)
from .._math import (
    abs_sq,
    clip_factor,
    debias,
    divide,
    ema,
    sqrt,
    squared_norm,
    unless_overflown,
)
from .._types import FirstMoment, Leaf, Scalar, SecondMoment


class CorrectedMoments(NamedTuple):
    """Running means of the corrected gradient and of its square; the last gradient."""

    mu: FirstMoment
    nu: SecondMoment
    last: FirstMoment


class MARS(AbstractLeafwiseOptimizer):
    r"""AdamW on gradients of less variance: extrapolated along their last change.

    $$
    \begin{aligned}
    c_t &= g_t + \gamma\, \frac{\beta_1}{1 - \beta_1} (g_t - g_{t-1}), \qquad
        \hat c_t = c_t / \max(1, \|c_t\|) \\
    m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, \hat c_t \\
    v_t &= \beta_2 v_{t-1} + (1 - \beta_2)\, |\hat c_t|^2 \\
    \hat m_t &= m_t / (1 - \beta_1^t), \qquad \hat v_t = v_t / (1 - \beta_2^t) \\
    u_t &= -\alpha_t \left( \hat m_t / (\sqrt{\hat v_t} + \varepsilon) +
        \lambda \theta_{t-1} \right)
    \end{aligned}
    $$

    The norm is that of one parameter, and $g_0 = 0$, as in the authors' code. This is
    its MARS-AdamW in the approximate form: $g_{t-1}$ is the last gradient as it was, on
    the last batch. The exact form computes it anew on this batch, at the cost of a
    second gradient in every step. The authors train vectors, such as biases and norms,
    with AdamW and decays of 0.9 and 0.95: use [`eqxopt.Partition`][] for that.

    **Arguments:**

    - `learning_rate`: $\alpha$, in [0, inf). The authors use 3e-3.
    - `b1`: $\beta_1$, the decay of the first moment, in [0, 1). Default 0.95.
    - `b2`: $\beta_2$, the decay of the second moment, in [0, 1). Default 0.99.
    - `gamma`: $\gamma$, how far to extrapolate, in [0, inf). Default 0.025.
    - `eps`: $\varepsilon$, outside the root, in [0, inf). Default 1e-8.
    - `weight_decay`: $\lambda$, in [0, inf). Default 0.
    - `mask`: which parameters decay, a [selector][selectors]. Default: all.
    - `mu_dtype`: the dtype in which $m$ and $g_{t-1}$ are kept ([dtypes][dtypes]).

    **Source:** Yuan et al., [MARS: Unleashing the Power of Variance Reduction for
    Training Large Models](https://arxiv.org/abs/2411.10438), 2024; its code's defaults.
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)")
    b1: Hyperparameter = hyperparameter("[0, 1)", default=0.95)
    b2: Hyperparameter = hyperparameter("[0, 1)", default=0.99)
    gamma: Hyperparameter = hyperparameter("[0, inf)", default=0.025)
    eps: Hyperparameter = hyperparameter("[0, inf)", default=1e-8)
    weight_decay: Hyperparameter = hyperparameter("[0, inf)", default=0.0)
    mask: OptionalMask = mask_of("weight_decay", default=None)
    mu_dtype: DType = dtype_option(default=None)

    def init_leaf(self, param: Leaf) -> CorrectedMoments:
        return CorrectedMoments(
            mu=zeros_like(param, self.mu_dtype),
            nu=real_zeros_like(param),
            last=zeros_like(param, self.mu_dtype),
        )

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: CorrectedMoments
    ) -> tuple[Leaf, CorrectedMoments]:
        weight = self.gamma * self.b1 / (1 - self.b1)
        c = grad + weight * (grad - state.last)
        c, square = unless_overflown(c, squared_norm(c))
        c_hat = c * clip_factor(sqrt(square), jnp.ones_like(t))
        mu = ema(state.mu, c_hat, self.b1)
        nu = ema(state.nu, abs_sq(c_hat), self.b2)
        mu_hat, nu_hat = debias(mu, self.b1, t), debias(nu, self.b2, t)
        step = divide(mu_hat, sqrt(nu_hat) + self.eps) + self.weight_decay * param
        return -self.learning_rate * step, CorrectedMoments(mu, nu, last=grad)
