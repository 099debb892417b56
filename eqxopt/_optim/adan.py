"""Adan."""

from typing import NamedTuple

import jax.numpy as jnp

from .._abstract.leafwise import AbstractLeafwiseOptimizer
from .._dtype import real_zeros_like, zeros_like
from .._fields import (
    Hyperparameter,
    hyperparameter,
    mask_of,
    OptionalMask,
)
from .._math import abs_sq, debias, ema, sqrt
from .._types import Leaf, RealLeaf, Scalar


class NesterovMoments(NamedTuple):
    """The running means of a parameter's gradient, of its changes and of the squared
    gradient ahead, and the gradient at the update before."""

    mu: Leaf
    change: Leaf
    nu: RealLeaf
    gradient: Leaf


class Adan(AbstractLeafwiseOptimizer):
    r"""Adam with Nesterov's momentum in both moments, from the gradient's changes.

    $$
    \begin{aligned}
    \delta_t &= g_t - g_{t-1}, \qquad g_0 = g_1 \\
    m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, g_t \\
    v_t &= \beta_2 v_{t-1} + (1 - \beta_2)\, \delta_t \\
    n_t &= \beta_3 n_{t-1} + (1 - \beta_3)\, |g_t + \beta_2 \delta_t|^2 \\
    \hat m_t &= \frac{m_t}{1 - \beta_1^t}, \quad
    \hat v_t = \frac{v_t}{1 - \beta_2^t}, \quad
    \hat n_t = \frac{n_t}{1 - \beta_3^t} \\
    \theta_t &= \frac{1}{1 + \eta_t \lambda} \left( \theta_{t-1} - \eta_t\,
        \frac{\hat m_t + \beta_2 \hat v_t}{\sqrt{\hat n_t + \bar\varepsilon} +
        \varepsilon} \right)
    \end{aligned}
    $$

    The paper writes $\beta$ for what is $1 - \beta$ here and in its authors' code, from
    which the bias corrections are too. optax 0.2.8 weighs $\delta_t$ and $\hat v_t$ by
    $1 - \beta_2$, 0.08 in place of 0.92 by default, and decays as
    [`eqxopt.AdamW`][] does, which differs from the above in $(\eta_t \lambda)^2$.

    **Arguments:**

    - `learning_rate`: $\eta \ge 0$.
    - `b1`: $\beta_1 \in [0, 1)$, the decay of the gradient's mean. Default 0.98.
    - `b2`: $\beta_2 \in [0, 1)$, the decay of the mean of its changes, and their
        weight. Default 0.92.
    - `b3`: $\beta_3 \in [0, 1)$, the decay of the second moment. Default 0.99.
    - `eps`: $\varepsilon \ge 0$, outside the root. Default 1e-8.
    - `eps_root`: $\bar\varepsilon \ge 0$, inside the root. Default 1e-8, as in optax.
        The paper has none.
    - `weight_decay`: $\lambda \ge 0$. Default 0.
    - `mask`: which parameters decay: a tree of booleans that is a prefix of the model,
        or a function of `(path, array)`. By default all do.

    **Source:** Xie et al., [Adan: Adaptive Nesterov Momentum Algorithm for Faster
    Optimizing Deep Models](https://arxiv.org/abs/2208.06677), 2022, Algorithm 1, and
    [its code](https://github.com/sail-sg/Adan).

    !!! example

        ```pycon
        >>> import jax, jax.numpy as jnp, eqxopt
        >>> f = lambda x: jnp.sum(x**2)
        >>> x = jnp.array([1.0, 2.0, 3.0])
        >>> opt = eqxopt.Adan(learning_rate=0.1).init(x)
        >>> for _ in range(5):
        ...     x, opt = opt.apply(jax.grad(f)(x), x)
        >>> print(f"{f(x):.2f}")
        8.77

        ```
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
        return NesterovMoments(
            mu=zeros_like(param),
            change=zeros_like(param),
            nu=real_zeros_like(param),
            gradient=zeros_like(param),
        )

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: NesterovMoments
    ) -> tuple[Leaf, NesterovMoments]:
        delta = jnp.where(t == 1, 0, grad - state.gradient)
        mu = ema(state.mu, grad, self.b1)
        change = ema(state.change, delta, self.b2)
        nu = ema(state.nu, abs_sq(grad + self.b2 * delta), self.b3)
        ahead = debias(mu, self.b1, t) + self.b2 * debias(change, self.b2, t)
        nu_hat = debias(nu, self.b3, t)
        direction = ahead / (sqrt(nu_hat + self.eps_root) + self.eps)
        step = direction + self.weight_decay * param
        shrink = 1 + self.learning_rate * self.weight_decay
        update = -(self.learning_rate / shrink) * step
        return update, NesterovMoments(mu, change, nu, grad)
