"""RAdam."""

import equinox as eqx
import jax.numpy as jnp

from .._abstract.leafwise import AbstractLeafwiseOptimizer
from .._fields import (
    Hyperparameter,
    hyperparameter,
    HyperparameterIn,
)
from .._math import (
    abs_sq,
    debias,
    debiased_mean,
    ema,
    Moments,
    one_minus_power,
    sqrt,
    zero_moments,
)
from .._number import Interval
from .._types import Leaf, Scalar


at_least_4 = HyperparameterIn(Interval("[4, inf)"))


class RAdam(AbstractLeafwiseOptimizer):
    r"""Adam that warms itself up: steps adapt only when enough gradients have come to
    trust their second moment, and then in proportion to that trust.

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

    With `nesterov=True`,

    $$
    \hat m_t = \beta_1 m_t / (1 - \beta_1^{t+1}) + (1 - \beta_1) g_t / (1 - \beta_1^t)
    $$

    The paper rectifies for $\rho_t > 4$, its authors' code and optax for
    $\rho_t \ge 5$, PyTorch for $\rho_t > 5$. The first few steps are not adaptive: they
    are as large as the gradient. With $\beta_2 \le 0.6$ all are.

    **Arguments:**

    - `learning_rate`: $\alpha \ge 0$.
    - `b1`: $\beta_1 \in [0, 1)$, the decay of the first moment. Default 0.9.
    - `b2`: $\beta_2 \in [0, 1)$, the decay of the second moment. Default 0.999.
    - `eps`: $\varepsilon \ge 0$, outside the root. Default 1e-8.
    - `eps_root`: $\bar\varepsilon \ge 0$, inside the root. Default 0.
    - `threshold`: $\tau \ge 4$, as for $\rho_t \le 4$ the variance that $r_t$
        rectifies is infinite. Default 5.
    - `nesterov`: keyword only. Default `False`.

    **Source:** Liu et al., [On the Variance of the Adaptive Learning Rate and
    Beyond](https://arxiv.org/abs/1908.03265), 2020.

    !!! example

        ```pycon
        >>> import jax, jax.numpy as jnp, eqxopt
        >>> f = lambda x: jnp.sum(x**2)
        >>> x = jnp.array([1.0, 2.0, 3.0])
        >>> opt = eqxopt.RAdam(learning_rate=0.003).init(x)
        >>> for _ in range(5):
        ...     x, opt = opt.apply(jax.grad(f)(x), x)
        >>> print(f"{f(x):.2f}")
        13.18

        ```
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)")
    b1: Hyperparameter = hyperparameter("[0, 1)", default=0.9)
    b2: Hyperparameter = hyperparameter("[0, 1)", default=0.999)
    eps: Hyperparameter = hyperparameter("[0, inf)", default=1e-8)
    eps_root: Hyperparameter = hyperparameter("[0, inf)", default=0.0)
    threshold: Hyperparameter = eqx.field(converter=at_least_4, default=5.0)
    nesterov: bool = eqx.field(default=False, static=True, kw_only=True)

    def init_leaf(self, param: Leaf) -> Moments:
        return zero_moments(param)

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: Moments
    ) -> tuple[Leaf, Moments]:
        mu = ema(state.mu, grad, self.b1)
        nu = ema(state.nu, abs_sq(grad), self.b2)
        mu_hat = debiased_mean(mu, grad, self.b1, t, nesterov=self.nesterov)
        nu_hat = debias(nu, self.b2, t)
        rho_inf = (1 + self.b2) / (1 - self.b2)
        rho = average_length(self.b2, t)
        rectify = rho >= self.threshold
        # Any number above 4 will do where there is nothing to rectify.
        r = rectification(jnp.where(rectify, rho, 5), jnp.where(rectify, rho_inf, 5))
        adaptive = r * mu_hat / (sqrt(nu_hat + self.eps_root) + self.eps)
        direction = jnp.where(rectify, adaptive, mu_hat)
        return -self.learning_rate * direction, Moments(mu, nu)


def rectification(rho: Scalar, rho_inf: Scalar) -> Scalar:
    r"""$r_t$."""
    of_rho = (rho - 4) * (rho - 2) / rho
    of_inf = (rho_inf - 4) * (rho_inf - 2) / rho_inf
    return sqrt(of_rho / of_inf)


def average_length(b2: Scalar, t: Scalar) -> Scalar:
    r"""$\rho_t$, the length of the simple moving average that $v_t$ amounts to."""
    unseen = one_minus_power(b2, t)
    exact = (1 + b2) / (1 - b2) - 2 * t * (1 - unseen) / unseen
    # In the first steps these two terms agree in all the digits that float32 has. With
    # x = -log(b2) / 2 they are coth x and t coth(t x) - t: in their difference the
    # 1 / x of both cancels, and what is left of coth is a short series.
    early = t * (1 - b2) < 0.1
    x = -jnp.log(jnp.where(early, b2, 1)) / 2
    return jnp.where(early, t + coth_rest(x) - t * coth_rest(t * x), exact)


def coth_rest(x: Scalar) -> Scalar:
    r"""$\coth x - 1 / x$ for small $x$."""
    sq = jnp.square(x)
    return x * (1 / 3 - sq * (1 / 45 - sq * (2 / 945 - sq / 4725)))
