"""ADOPT."""

import equinox as eqx
import jax.numpy as jnp

from .._abstract.leafwise import AbstractLeafwiseOptimizer
from .._fields import DType, dtype_option, Hyperparameter, hyperparameter
from .._math import abs_sq, clipped, divide, ema, Moments, sqrt, squarable, zero_moments
from .._schedule.abstract import Step
from .._types import Leaf, Scalar


def _fourth_root(step: Step) -> Scalar:
    return jnp.asarray(step, float) ** 0.25


class ADOPT(AbstractLeafwiseOptimizer):
    r"""Adam whose divisor has not seen the current gradient: any $\beta_2$ converges.

    $$
    \begin{aligned}
    d_t &= \mathrm{clip}\!\left( \frac{g_t}{\max(\sqrt{v_{t-1}},\, \varepsilon)},\,
        c_t \right), \qquad c_t = (t - 1)^{1/4} \\
    m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, d_t \\
    v_t &= \beta_2 v_{t-1} + (1 - \beta_2)\, |g_t|^2 \\
    u_t &= -\alpha_t\, m_t
    \end{aligned}
    $$

    The first update only sets $v_1 = |g_1|^2$ and moves nothing. With `nesterov=True`,
    $u_t = -\alpha_t \left( \beta_1 m_t + (1 - \beta_1)\, d_t \right)$. The clipping
    came with the second version of the paper. It keeps the first steps small of entries
    whose first gradient happened to be near 0. A complex entry is clipped in its
    modulus. A parameter whose first gradient comes in a later update is clipped then;
    without clipping, that gradient is divided by $\varepsilon$. As in optax there is no
    weight decay: for a decoupled one use [`eqxopt.DecoupledWeightDecay`][].

    **Arguments:**

    - `learning_rate`: $\alpha$, in [0, inf).
    - `b1`: $\beta_1$, the decay of the first moment, in [0, 1). Default 0.9.
    - `b2`: $\beta_2$, the decay of the second moment, in [0, 1). Default 0.9999.
    - `eps`: $\varepsilon$, the least divisor, in [0, inf). Default 1e-6.
    - `mu_dtype`: the dtype in which $m$ is kept ([dtypes][dtypes]).
    - `nesterov`: keyword only. Default `False`.
    - `use_clipping`: whether to clip. Default `True`. Keyword only.
    - `clip_value_fn`: $c$, in [0, inf), a number or a schedule like every
        hyperparameter. Default `lambda step: step**0.25`, in which the first update
        sees step 0. Keyword only.

    **Source:** Taniguchi et al., [ADOPT: Modified Adam Can Converge with Any $\beta_2$
    with the Optimal Rate](https://arxiv.org/abs/2411.02853), 2024, Algorithm 2.
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)")
    b1: Hyperparameter = hyperparameter("[0, 1)", default=0.9)
    b2: Hyperparameter = hyperparameter("[0, 1)", default=0.9999)
    eps: Hyperparameter = hyperparameter("[0, inf)", default=1e-6)
    mu_dtype: DType = dtype_option(default=None)
    nesterov: bool = eqx.field(default=False, static=True, kw_only=True)
    use_clipping: bool = eqx.field(default=True, static=True, kw_only=True)
    clip_value_fn: Hyperparameter = hyperparameter(
        "[0, inf)", default=_fourth_root, kw_only=True
    )

    def init_leaf(self, param: Leaf) -> Moments:
        return zero_moments(param, self.mu_dtype)

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: Moments
    ) -> tuple[Leaf, Moments]:
        grad = squarable(grad)
        first = t == 1
        scaled = divide(grad, jnp.maximum(sqrt(state.nu), self.eps))
        if self.use_clipping:
            scaled = clipped(scaled, self.clip_value_fn)
        scaled = jnp.where(first, 0, scaled)
        mu = ema(state.mu, scaled, self.b1)
        nu = jnp.where(first, abs_sq(grad), ema(state.nu, abs_sq(grad), self.b2))
        direction = ema(mu, scaled, self.b1) if self.nesterov else mu
        return -self.learning_rate * direction, Moments(mu, nu)
