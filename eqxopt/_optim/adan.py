"""Adan."""

from typing import NamedTuple

import jax.numpy as jnp

from .._abstract.leafwise import AbstractLeafwiseOptimizer
from .._dtype import real_zeros_like, zeros_like
from .._fields import Hyperparameter, hyperparameter, mask_of, OptionalMask
from .._math import abs_sq, debias, divide, ema, sqrt, squarable
from .._types import FirstMoment, Leaf, Scalar, SecondMoment


class NesterovMoments(NamedTuple):
    """The running means of a parameter's gradient, of its changes and of the squared
    gradient ahead, and the gradient at the update before."""

    mu: FirstMoment
    change: FirstMoment
    nu: SecondMoment
    gradient: FirstMoment


class Adan(AbstractLeafwiseOptimizer):
    r"""Adam with Nesterov's momentum in both moments, from the gradient's changes.

    $$
    \begin{aligned}
    \delta_t &= g_t - g_{t-1}, \qquad g_0 = g_1 \\
    m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, g_t \\
    d_t &= \beta_2 d_{t-1} + (1 - \beta_2)\, \delta_t \\
    v_t &= \beta_3 v_{t-1} + (1 - \beta_3)\, |g_t + \beta_2 \delta_t|^2 \\
    \hat m_t &= \frac{m_t}{1 - \beta_1^t}, \quad
    \hat d_t = \frac{d_t}{1 - \beta_2^t}, \quad
    \hat v_t = \frac{v_t}{1 - \beta_3^t} \\
    \theta_t &= \frac{1}{1 + \eta_t \lambda} \left( \theta_{t-1} - \eta_t\,
        \frac{\hat m_t + \beta_2 \hat d_t}{\sqrt{\hat v_t + \bar\varepsilon} +
        \varepsilon} \right)
    \end{aligned}
    $$

    The paper writes $v$ for $d$, $n$ for $v$, and $\beta$ for what is $1 - \beta$ here
    and in its authors' code, from which the bias corrections are too. optax 0.2.8
    weighs $\delta_t$ and $\hat d_t$ by $1 - \beta_2$, 0.08 in place of 0.92 by default,
    and decays as [`eqxopt.AdamW`][] does, which differs from the above in
    $(\eta_t \lambda)^2$.

    **Arguments:**

    - `learning_rate`: $\eta$, in [0, inf).
    - `b1`: $\beta_1$, the decay of the gradient's mean, in [0, 1). Default 0.98.
    - `b2`: $\beta_2$, the decay and weight of its changes, in [0, 1). Default 0.92.
    - `b3`: $\beta_3$, the decay of the second moment, in [0, 1). Default 0.99.
    - `eps`: $\varepsilon$, outside the root, in [0, inf). Default 1e-8.
    - `eps_root`: $\bar\varepsilon$, inside the root, in [0, inf). Default 1e-8, as in
        optax. The paper has none.
    - `weight_decay`: $\lambda$, in [0, inf). Default 0.
    - `mask`: which parameters decay, a [selector][selectors]. Default: all.

    **Source:** Xie et al., [Adan: Adaptive Nesterov Momentum Algorithm for Faster
    Optimizing Deep Models](https://arxiv.org/abs/2208.06677), 2022, Algorithm 1, and
    [its code](https://github.com/sail-sg/Adan).
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)")
    b1: Hyperparameter = hyperparameter("[0, 1)", default=0.98)
    b2: Hyperparameter = hyperparameter("[0, 1)", default=0.92)
    b3: Hyperparameter = hyperparameter("[0, 1)", default=0.99)
    eps: Hyperparameter = hyperparameter("[0, inf)", default=1e-8)
    eps_root: Hyperparameter = hyperparameter("[0, inf)", default=1e-8)
    weight_decay: Hyperparameter = hyperparameter("[0, inf)", default=0.0)
    mask: OptionalMask = mask_of("weight_decay", default=None)

    def init_leaf(self, param: Leaf) -> NesterovMoments:
        mu, change, gradient = (zeros_like(param) for _ in range(3))
        return NesterovMoments(mu, change, real_zeros_like(param), gradient)

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: NesterovMoments
    ) -> tuple[Leaf, NesterovMoments]:
        grad = squarable(grad)
        delta = jnp.where(t == 1, 0, grad - state.gradient)
        mu = ema(state.mu, grad, self.b1)
        change = ema(state.change, delta, self.b2)
        nu = ema(state.nu, abs_sq(grad + self.b2 * delta), self.b3)
        mu_hat, nu_hat = debias(mu, self.b1, t), debias(nu, self.b3, t)
        ahead = mu_hat + self.b2 * debias(change, self.b2, t)
        direction = divide(ahead, sqrt(nu_hat + self.eps_root) + self.eps)
        # theta_t - theta_{t-1}, but not as a difference, which would cancel.
        rate = self.learning_rate / (1 + self.learning_rate * self.weight_decay)
        update = -rate * (direction + self.weight_decay * param)
        return update, NesterovMoments(mu, change, nu, grad)
