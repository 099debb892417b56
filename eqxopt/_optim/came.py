"""CAME."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from .._abstract.leafwise import AbstractLeafwiseOptimizer
from .._dtype import zeros_like
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
    divide,
    ema,
    is_factored,
    mix_factors,
    Moments,
    over_root,
    rms,
    sqrt,
    squarable,
    zero_factors,
    zero_moments,
)
from .._types import FirstMoment, Leaf, Scalar


class Confidence(NamedTuple):
    """Running means of a matrix's normalized gradient; of its squared gradient; and of
    the squared distance of the first from its mean: the last two along each of the two
    longest axes."""

    mu: FirstMoment
    row: Float[Array, "*rows"]
    col: Float[Array, "*cols"]
    instability_row: Float[Array, "*rows"]
    instability_col: Float[Array, "*cols"]


class CAME(AbstractLeafwiseOptimizer):
    r"""CAME: Adafactor with momentum that trusts the entries where the gradient agrees
    with the momentum. For a matrix,

    $$
    \begin{aligned}
    R_t &= \beta_2 R_{t-1} +
        (1 - \beta_2) \operatorname{mean}_\text{columns}(|g_t|^2 + \varepsilon_1) \\
    C_t &= \beta_2 C_{t-1} +
        (1 - \beta_2) \operatorname{mean}_\text{rows}(|g_t|^2 + \varepsilon_1) \\
    x_t &= g_t / \sqrt{R_t C_t / \operatorname{mean}(R_t)}, \qquad
        \hat x_t = x_t / \max(1, \operatorname{RMS}(x_t) / d) \\
    m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, \hat x_t \\
    U_t &= |\hat x_t - m_t|^2 + \varepsilon_2 \\
    u_t &= -\alpha_t \left( m_t / \sqrt{S_t} + \lambda \theta_{t-1} \right)
    \end{aligned}
    $$

    where $S_t$ is the running mean of the instability $U_t$ with decay $\beta_3$,
    factored like that of $|g_t|^2$. Nothing is corrected for its start at zero, so the
    first steps of a matrix are about ten times longer: warm the learning rate up. A
    parameter without two axes of more than one entry has the running mean of $|g_t|^2 +
    \varepsilon_1$ itself, and $u_t = -\alpha_t (m_t + \lambda \theta_{t-1})$, as in the
    authors' code; the paper has matrices alone. An array of more axes is a stack of
    matrices along its two longest axes, as in [`eqxopt.Adafactor`][]; the authors' code
    takes its last two, which saves nothing for a convolution.

    **Arguments:**

    - `learning_rate`: $\alpha$, in [0, inf). The paper's are near 2e-4.
    - `b1`: $\beta_1$, the decay of the momentum, in [0, 1). Default 0.9.
    - `b2`: $\beta_2$, the decay of the squares, in [0, 1). Default 0.999.
    - `b3`: $\beta_3$, the decay of the instability, in [0, 1). Default 0.9999.
    - `eps`: $\varepsilon_1$, added to the squares, in [0, inf). Default 1e-30.
    - `eps_instability`: $\varepsilon_2$, in [0, inf). Default 1e-16.
    - `clipping_threshold`: $d$, in (0, inf). Default 1.
    - `weight_decay`: $\lambda$, in [0, inf). Default 0.
    - `mask`: which parameters decay, a [selector][selectors]. Default: all.
    - `mu_dtype`: the dtype in which $m$ is kept ([dtypes][dtypes]).

    **Source:** Luo et al., [CAME: Confidence-guided Adaptive Memory Efficient
    Optimization](https://arxiv.org/abs/2307.02047), 2023, with its code's defaults.
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)")
    b1: Hyperparameter = hyperparameter("[0, 1)", default=0.9)
    b2: Hyperparameter = hyperparameter("[0, 1)", default=0.999)
    b3: Hyperparameter = hyperparameter("[0, 1)", default=0.9999)
    eps: Hyperparameter = hyperparameter("[0, inf)", default=1e-30)
    eps_instability: Hyperparameter = hyperparameter("[0, inf)", default=1e-16)
    clipping_threshold: Hyperparameter = hyperparameter("(0, inf)", default=1.0)
    weight_decay: Hyperparameter = hyperparameter("[0, inf)", default=0.0)
    mask: OptionalMask = mask_of("weight_decay", default=None)
    mu_dtype: DType = dtype_option(default=None)

    def init_leaf(self, param: Leaf) -> Confidence | Moments:
        if not is_factored(param.shape, 2):
            return zero_moments(param, self.mu_dtype)
        mu = zeros_like(param, self.mu_dtype)
        return Confidence(mu, *zero_factors(param), *zero_factors(param))

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: Confidence | Moments
    ) -> tuple[Leaf, Confidence | Moments]:
        grad = squarable(grad)
        square = abs_sq(grad) + self.eps
        if isinstance(state, Moments):
            nu = ema(state.nu, square, self.b2)
            x_hat = self.clip(divide(grad, sqrt(nu)))
            mu = direction = ema(state.mu, x_hat, self.b1)
            new = Moments(mu, nu)
        else:
            row, col = mix_factors(state.row, state.col, square, self.b2)
            x_hat = self.clip(over_root(grad, row, col))
            mu = ema(state.mu, x_hat, self.b1)
            instability = abs_sq(x_hat - mu) + self.eps_instability
            means = state.instability_row, state.instability_col
            factors = mix_factors(*means, instability, self.b3)
            direction = over_root(mu, *factors)
            new = Confidence(mu, row, col, *factors)
        return -self.learning_rate * (direction + self.weight_decay * param), new

    def clip(self, x: Leaf) -> Leaf:
        r"""$x$ with a root mean square of at most $d$."""
        return x / jnp.maximum(1, rms(x) / self.clipping_threshold)
