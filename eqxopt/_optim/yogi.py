"""Yogi."""

import jax.numpy as jnp

from .._abstract.leafwise import AbstractLeafwiseOptimizer
from .._fields import Hyperparameter, hyperparameter
from .._math import abs_sq, debias, ema, Moments, sqrt, zero_moments
from .._types import Leaf, Scalar


class Yogi(AbstractLeafwiseOptimizer):
    r"""Adam whose second moment moves by as much as the squared gradient, whichever is
    larger, and so forgets large gradients only slowly.

    $$
    \begin{aligned}
    m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, g_t \\
    v_t &= v_{t-1} - (1 - \beta_2)\, \mathrm{sign}(v_{t-1} - |g_t|^2)\, |g_t|^2 \\
    \hat m_t &= m_t / (1 - \beta_1^t), \qquad \hat v_t = v_t / (1 - \beta_2^t) \\
    u_t &= -\alpha_t\, \hat m_t / (\sqrt{\hat v_t} + \varepsilon)
    \end{aligned}
    $$

    with $m_0 = v_0 = 10^{-6}$. The paper corrects no bias and starts $m$ at zero; both
    are here as in optax.

    **Arguments:**

    - `learning_rate`: $\alpha \ge 0$.
    - `b1`: $\beta_1 \in [0, 1)$, the decay of the first moment. Default 0.9.
    - `b2`: $\beta_2 \in [0, 1)$; $1 - \beta_2$ is the pace of the second moment.
        Default 0.999.
    - `eps`: $\varepsilon \ge 0$, outside the root. Default 1e-3.

    **Source:** Zaheer et al., [Adaptive Methods for Nonconvex
    Optimization](https://proceedings.neurips.cc/paper/2018/file/90365351ccc7437a1309dc64e4db32a3-Paper.pdf),
    2018, with its defaults.

    !!! example

        ```pycon
        >>> import jax, jax.numpy as jnp, eqxopt
        >>> f = lambda x: jnp.sum(x**2)
        >>> x = jnp.array([1.0, 2.0, 3.0])
        >>> opt = eqxopt.Yogi(learning_rate=0.002).init(x)
        >>> for _ in range(5):
        ...     x, opt = opt.apply(jax.grad(f)(x), x)
        >>> print(f"{f(x):.2f}")
        13.88

        ```
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)")
    b1: Hyperparameter = hyperparameter("[0, 1)", default=0.9)
    b2: Hyperparameter = hyperparameter("[0, 1)", default=0.999)
    eps: Hyperparameter = hyperparameter("[0, inf)", default=1e-3)

    def init_leaf(self, param: Leaf) -> Moments:
        mu, nu = zero_moments(param)
        return Moments(mu + 1e-6, nu + 1e-6)

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: Moments
    ) -> tuple[Leaf, Moments]:
        mu = ema(state.mu, grad, self.b1)
        square = abs_sq(grad)
        nu = state.nu - (1 - self.b2) * jnp.sign(state.nu - square) * square
        mu_hat = debias(mu, self.b1, t)
        nu_hat = debias(nu, self.b2, t)
        direction = mu_hat / (sqrt(nu_hat) + self.eps)
        return -self.learning_rate * direction, Moments(mu, nu)
