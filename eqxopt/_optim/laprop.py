"""LaProp."""

from typing import NamedTuple

import jax.numpy as jnp

from .._abstract.leafwise import AbstractLeafwiseOptimizer
from .._dtype import compute_dtype, real_dtype, real_zeros_like, zeros_like
from .._fields import (
    DType,
    dtype_option,
    Hyperparameter,
    hyperparameter,
    mask_of,
    OptionalMask,
)
from .._math import abs_sq, debias, divide, ema, sqrt, squarable
from .._types import FirstMoment, Leaf, Scalar, SecondMoment


class StepsAndMoment(NamedTuple):
    """Running means of normalized steps, of rates, and of the squared gradient."""

    mu: FirstMoment
    rate: Scalar
    nu: SecondMoment


class LaProp(AbstractLeafwiseOptimizer):
    r"""Adam in the other order: the gradient is normalized first and averaged then.

    $$
    \begin{aligned}
    v_t &= \beta_2 v_{t-1} + (1 - \beta_2)\, |g_t|^2, \qquad
        \hat v_t = v_t / (1 - \beta_2^t) \\
    m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, \alpha_t\, g_t / (\sqrt{\hat v_t} +
        \varepsilon) \\
    a_t &= \beta_1 a_{t-1} + (1 - \beta_1)\, \alpha_t \\
    u_t &= -\alpha_t \left( m_t / a_t + \lambda \theta_{t-1} \right)
    \end{aligned}
    $$

    $m_t / a_t$ is a mean of normalized gradients, so no entry of it is larger than $1 /
    \sqrt{1 - \beta_2}$, whatever $\beta_1$ is. Adam diverges with $\beta_1 >
    \sqrt{\beta_2}$; here $\beta_2$ can be as small as noise demands. With a constant
    rate, $m_t / a_t$ is the mean without the bias of its start at zero. Under a
    schedule every step keeps the weight of the rate that it was made with, as in the
    authors' code; most other versions leave this out. While the rate is exactly 0, that
    code moves by $m_t$; here nothing moves, and $m_t / a_t$ is 0 until the rate is not.
    The decay is multiplied by the learning rate, which it is not in that code.

    **Arguments:**

    - `learning_rate`: $\alpha$, in [0, inf). The paper uses 4e-4 for Adam's 1e-3.
    - `b1`: $\beta_1$, the decay of the mean, in [0, 1). Default 0.9.
    - `b2`: $\beta_2$, the decay of the second moment, in [0, 1). Default 0.999.
    - `eps`: $\varepsilon$, outside the root, in [0, inf). Default 1e-15.
    - `mu_dtype`: the dtype in which $m$ is kept ([dtypes][dtypes]).
    - `weight_decay`: $\lambda$, in [0, inf). Default 0.
    - `mask`: which parameters decay, a [selector][selectors]. Default: all.

    **Source:** Ziyin, Wang and Ueda, [LaProp: Separating Momentum and Adaptivity in
    Adam](https://arxiv.org/abs/2002.04839), 2020, and [its
    code](https://github.com/Z-T-WANG/LaProp-Optimizer).
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)")
    b1: Hyperparameter = hyperparameter("[0, 1)", default=0.9)
    b2: Hyperparameter = hyperparameter("[0, 1)", default=0.999)
    eps: Hyperparameter = hyperparameter("[0, inf)", default=1e-15)
    mu_dtype: DType = dtype_option(default=None)
    weight_decay: Hyperparameter = hyperparameter("[0, inf)", default=0.0)
    mask: OptionalMask = mask_of("weight_decay", default=None)

    def init_leaf(self, param: Leaf) -> StepsAndMoment:
        rate = jnp.zeros((), real_dtype(compute_dtype(param.dtype)))
        mu = zeros_like(param, self.mu_dtype)
        return StepsAndMoment(mu, rate, real_zeros_like(param))

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: StepsAndMoment
    ) -> tuple[Leaf, StepsAndMoment]:
        grad = squarable(grad)
        nu = ema(state.nu, abs_sq(grad), self.b2)
        nu_hat = debias(nu, self.b2, t)
        normalized = divide(grad, sqrt(nu_hat) + self.eps)
        mu = ema(state.mu, self.learning_rate * normalized, self.b1)
        rate = ema(state.rate, self.learning_rate, self.b1)
        update = -self.learning_rate * (divide(mu, rate) + self.weight_decay * param)
        return update, StepsAndMoment(mu, rate, nu)
