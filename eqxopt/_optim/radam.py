"""RAdam."""

import equinox as eqx
import jax.numpy as jnp

from .._abstract.leafwise import AbstractLeafwiseOptimizer
from .._fields import Hyperparameter, hyperparameter
from .._math import (
    abs_sq,
    debias,
    debiased_mean,
    divide,
    ema,
    Moments,
    one_minus_power,
    sqrt,
    squarable,
    zero_moments,
)
from .._types import Leaf, Scalar


class RAdam(AbstractLeafwiseOptimizer):
    r"""Adam that warms itself up: it adapts its steps once it has seen enough gradients
    to trust their second moment, and then in proportion to that trust.

    $$
    \begin{aligned}
    m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, g_t \\
    v_t &= \beta_2 v_{t-1} + (1 - \beta_2)\, |g_t|^2 \\
    \hat m_t &= m_t / (1 - \beta_1^t), \qquad \hat v_t = v_t / (1 - \beta_2^t) \\
    \rho_\infty &= \frac{2}{1 - \beta_2} - 1, \qquad
    \rho_t = \rho_\infty - \frac{2 t \beta_2^t}{1 - \beta_2^t} \\
    r_t &= \sqrt{\frac{(\rho_t - 4)(\rho_t - 2)\, \rho_\infty}
        {(\rho_\infty - 4)(\rho_\infty - 2)\, \rho_t}} \\
    u_t &= \begin{cases}
        -\alpha_t\, r_t\, \hat m_t / (\sqrt{\hat v_t + \bar\varepsilon} + \varepsilon)
            & \rho_t \ge \tau \\
        -\alpha_t\, \hat m_t & \text{otherwise}
    \end{cases}
    \end{aligned}
    $$

    With `nesterov=True`, $\hat m_t$ is that of [`eqxopt.NAdam`][]. The paper rectifies
    for $\rho_t > 4$, its authors' code and optax for $\rho_t \ge 5$, PyTorch for
    $\rho_t > 5$. PyTorch and the authors' code add $\varepsilon$ before they correct
    the bias, to $\sqrt{v_t}$. The first few steps do not adapt and are as large as the
    gradient. If $\rho_\infty \le \tau$, by default for $\beta_2 \le 2/3$, none adapts.

    **Arguments:**

    - `learning_rate`: $\alpha$, in [0, inf).
    - `b1`: $\beta_1$, the decay of the first moment, in [0, 1). Default 0.9.
    - `b2`: $\beta_2$, the decay of the second moment, in [0, 1). Default 0.999.
    - `eps`: $\varepsilon$, outside the root, in [0, inf). Default 1e-8.
    - `eps_root`: $\bar\varepsilon$, inside the root, in [0, inf). Default 0.
    - `threshold`: $\tau$, in [4, inf): for $\rho_t \le 4$ the variance that $r_t$
        rectifies is infinite. Default 5.
    - `nesterov`: whether to look one step ahead. Default `False`. Keyword only.

    **Source:** Liu et al., [On the Variance of the Adaptive Learning Rate and
    Beyond](https://arxiv.org/abs/1908.03265), 2020.
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)")
    b1: Hyperparameter = hyperparameter("[0, 1)", default=0.9)
    b2: Hyperparameter = hyperparameter("[0, 1)", default=0.999)
    eps: Hyperparameter = hyperparameter("[0, inf)", default=1e-8)
    eps_root: Hyperparameter = hyperparameter("[0, inf)", default=0.0)
    threshold: Hyperparameter = hyperparameter("[4, inf)", default=5.0)
    nesterov: bool = eqx.field(default=False, static=True, kw_only=True)

    def init_leaf(self, param: Leaf) -> Moments:
        return zero_moments(param)

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: Moments
    ) -> tuple[Leaf, Moments]:
        grad = squarable(grad)
        mu = ema(state.mu, grad, self.b1)
        nu = ema(state.nu, abs_sq(grad), self.b2)
        mu_hat = debiased_mean(mu, grad, self.b1, t, nesterov=self.nesterov)
        nu_hat = debias(nu, self.b2, t)
        rho_inf = (1 + self.b2) / (1 - self.b2)
        rho = average_length(self.b2, t)
        # Late in training $\rho_t$ is rounded to its limit, and both may be too large.
        ever = rho_inf > self.threshold * (1 + 1e-6)
        rectify = ever & (rho >= self.threshold)
        # Any number above 4 will do where there is nothing to rectify.
        r = rectification(jnp.where(rectify, rho, 5), jnp.where(rectify, rho_inf, 5))
        adaptive = divide(r * mu_hat, sqrt(nu_hat + self.eps_root) + self.eps)
        direction = jnp.where(rectify, adaptive, mu_hat)
        return -self.learning_rate * direction, Moments(mu, nu)


def rectification(rho: Scalar, rho_inf: Scalar) -> Scalar:
    r"""$r_t$, the square root of a ratio of variances."""
    variance = (rho - 4) * (rho - 2) / rho
    variance_inf = (rho_inf - 4) * (rho_inf - 2) / rho_inf
    return sqrt(variance / variance_inf)


def average_length(b2: Scalar, t: Scalar) -> Scalar:
    r"""$\rho_t$, the length of the simple moving average that $v_t$ amounts to."""
    weights = one_minus_power(b2, t)
    exact = (1 + b2) / (1 - b2) - 2 * t * (1 - weights) / weights
    # In the first steps float32 cannot tell these two terms apart. With
    # x = -log(b2) / 2 they are coth x and t coth(t x) - t. Their difference is free of
    # the 1 / x in coth, and the rest of coth is a short series.
    early = t * (1 - b2) < 0.1
    x = -jnp.log(jnp.where(early, b2, 1)) / 2
    return jnp.where(early, t + coth_rest(x) - t * coth_rest(t * x), exact)


def coth_rest(x: Scalar) -> Scalar:
    r"""$\coth x - 1 / x$ for small $x$."""
    x2 = jnp.square(x)
    return x * (1 / 3 - x2 * (1 / 45 - x2 * (2 / 945 - x2 / 4725)))
