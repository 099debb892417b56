"""Adamax, with and without decoupled weight decay."""

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
from .._math import debias, ema
from .._types import Leaf, RealLeaf, Scalar


class MeanAndPeak(NamedTuple):
    """The running mean of a parameter's gradient, and its decaying largest size."""

    mu: Leaf
    nu: RealLeaf


class Adamax(AbstractLeafwiseOptimizer):
    r"""Adam with the largest recent gradient in place of the root mean square.

    $$
    \begin{aligned}
    m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, g_t \\
    v_t &= \max(\beta_2 v_{t-1},\, |g_t| + \varepsilon) \\
    u_t &= -\alpha_t\, \frac{m_t}{1 - \beta_1^t} \Big/ v_t
    \end{aligned}
    $$

    The maximum has no bias to correct. The paper has no $\varepsilon$ and so divides 0
    by 0 where no gradient has come yet; PyTorch and optax add it as here.

    **Arguments:**

    - `learning_rate`: $\alpha \ge 0$.
    - `b1`: $\beta_1 \in [0, 1)$, the decay of the first moment. Default 0.9.
    - `b2`: $\beta_2 \in [0, 1)$, the decay of the maximum. Default 0.999.
    - `eps`: $\varepsilon \ge 0$. Default 1e-8.

    **Source:** Kingma and Ba, [Adam: A Method for Stochastic
    Optimization](https://arxiv.org/abs/1412.6980), 2014, Algorithm 2.

    !!! example

        ```pycon
        >>> import jax, jax.numpy as jnp, eqxopt
        >>> f = lambda x: jnp.sum(x**2)
        >>> x = jnp.array([1.0, 2.0, 3.0])
        >>> opt = eqxopt.Adamax(learning_rate=0.003).init(x)
        >>> for _ in range(5):
        ...     x, opt = opt.apply(jax.grad(f)(x), x)
        >>> print(f"{f(x):.2f}")
        13.82

        ```
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)")
    b1: Hyperparameter = hyperparameter("[0, 1)", default=0.9)
    b2: Hyperparameter = hyperparameter("[0, 1)", default=0.999)
    eps: Hyperparameter = hyperparameter("[0, inf)", default=1e-8)

    def init_leaf(self, param: Leaf) -> MeanAndPeak:
        return MeanAndPeak(zeros_like(param), real_zeros_like(param))

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: MeanAndPeak
    ) -> tuple[Leaf, MeanAndPeak]:
        direction, state = adamax_direction(self, t, grad, state)
        return -self.learning_rate * direction, state


class AdamaxW(AbstractLeafwiseOptimizer):
    r"""Adamax with decoupled weight decay.

    $$
    \begin{aligned}
    m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, g_t \\
    v_t &= \max(\beta_2 v_{t-1},\, |g_t| + \varepsilon) \\
    u_t &= -\alpha_t \left( \frac{m_t}{1 - \beta_1^t} \Big/ v_t +
        \lambda \theta_{t-1} \right)
    \end{aligned}
    $$

    The decay is multiplied by the learning rate, as in [`eqxopt.AdamW`][].

    **Arguments:**

    - `learning_rate`: $\alpha \ge 0$.
    - `b1`: $\beta_1 \in [0, 1)$, the decay of the first moment. Default 0.9.
    - `b2`: $\beta_2 \in [0, 1)$, the decay of the maximum. Default 0.999.
    - `eps`: $\varepsilon \ge 0$. Default 1e-8.
    - `weight_decay`: $\lambda \ge 0$. Default 1e-4.
    - `mask`: which parameters decay: a tree of booleans that is a prefix of the model,
        or a function of `(path, array)`. By default all do.

    **Source:** Kingma and Ba, [Adam: A Method for Stochastic
    Optimization](https://arxiv.org/abs/1412.6980), 2014, Algorithm 2; Loshchilov and
    Hutter, [Decoupled Weight Decay Regularization](https://arxiv.org/abs/1711.05101),
    2019.

    !!! example

        ```pycon
        >>> import jax, jax.numpy as jnp, eqxopt
        >>> f = lambda x: jnp.sum(x**2)
        >>> x = jnp.array([1.0, 2.0, 3.0])
        >>> opt = eqxopt.AdamaxW(learning_rate=0.003).init(x)
        >>> for _ in range(5):
        ...     x, opt = opt.apply(jax.grad(f)(x), x)
        >>> print(f"{f(x):.2f}")
        13.82

        ```
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)")
    b1: Hyperparameter = hyperparameter("[0, 1)", default=0.9)
    b2: Hyperparameter = hyperparameter("[0, 1)", default=0.999)
    eps: Hyperparameter = hyperparameter("[0, inf)", default=1e-8)
    weight_decay: Hyperparameter = hyperparameter("[0, inf)", default=1e-4)
    mask: OptionalMask = mask_of("weight_decay", default=None)

    def init_leaf(self, param: Leaf) -> MeanAndPeak:
        return MeanAndPeak(zeros_like(param), real_zeros_like(param))

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: MeanAndPeak
    ) -> tuple[Leaf, MeanAndPeak]:
        direction, state = adamax_direction(self, t, grad, state)
        return -self.learning_rate * (direction + self.weight_decay * param), state


def adamax_direction(
    self: Adamax | AdamaxW, t: Scalar, grad: Leaf, state: MeanAndPeak
) -> tuple[Leaf, MeanAndPeak]:
    r"""$\hat m_t / v_t$."""
    mu = ema(state.mu, grad, self.b1)
    nu = jnp.maximum(self.b2 * state.nu, jnp.abs(grad) + self.eps)
    return debias(mu, self.b1, t) / nu, MeanAndPeak(mu, nu)
