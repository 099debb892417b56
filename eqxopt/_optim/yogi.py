"""Yogi."""

import jax.numpy as jnp

from .._abstract.leafwise import AbstractLeafwiseOptimizer
from .._fields import Hyperparameter, hyperparameter
from .._math import abs_sq, debias, divide, ema, Moments, sqrt, squarable, zero_moments
from .._types import Leaf, Scalar


class Yogi(AbstractLeafwiseOptimizer):
    r"""Adam whose second moment moves by a part of the squared gradient, up or
    down, and so forgets large gradients only slowly.

    $$
    \begin{aligned}
    m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, g_t \\
    v_t &= v_{t-1} - (1 - \beta_2)\, \mathrm{sign}(v_{t-1} - |g_t|^2)\, |g_t|^2 \\
    \hat m_t &= m_t / (1 - \beta_1^t), \qquad \hat v_t = v_t / (1 - \beta_2^t) \\
    u_t &= -\alpha_t\, \hat m_t / (\sqrt{\hat v_t} + \varepsilon)
    \end{aligned}
    $$

    with $m_0 = v_0 = 10^{-6}$. The paper corrects no bias and starts $m$ at zero; both
    follow optax here.

    **Arguments:**

    - `learning_rate`: $\alpha$, in [0, inf).
    - `b1`: $\beta_1$, the decay of the first moment, in [0, 1). Default 0.9.
    - `b2`: $\beta_2$, in [0, 1), for the pace $1 - \beta_2$ of $v$. Default 0.999.
    - `eps`: $\varepsilon$, outside the root, in [0, inf). Default 1e-3.

    **Source:** Zaheer et al., [Adaptive Methods for Nonconvex
    Optimization](https://proceedings.neurips.cc/paper/2018/file/90365351ccc7437a1309dc64e4db32a3-Paper.pdf),
    2018, with its defaults.
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
        grad = squarable(grad)
        square = abs_sq(grad)
        mu = ema(state.mu, grad, self.b1)
        nu = state.nu - (1 - self.b2) * jnp.sign(state.nu - square) * square
        mu_hat, nu_hat = debias(mu, self.b1, t), debias(nu, self.b2, t)
        direction = divide(mu_hat, sqrt(nu_hat) + self.eps)
        return -self.learning_rate * direction, Moments(mu, nu)
