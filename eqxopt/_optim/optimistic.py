"""Optimistic gradient descent."""

from typing import NamedTuple

import jax.numpy as jnp

from .._abstract.leafwise import AbstractLeafwiseOptimizer
from .._dtype import zeros_like
from .._fields import Hyperparameter, hyperparameter
from .._types import Leaf, Scalar


class PreviousGradient(NamedTuple):
    """A parameter's gradient at the update before; zeros before the first."""

    gradient: Leaf


class OptimisticGradientDescent(AbstractLeafwiseOptimizer):
    r"""Gradient descent that counts on the gradient to change as it just did.

    $$
    u_t = -\alpha_t \left( (a + b)\, g_t - b\, g_{t-1} \right),
    \qquad g_0 = g_1
    $$

    With $a = b = 1$ this is a step along $g_t + (g_t - g_{t-1})$, a guess of the next
    gradient. In games of two players, where gradient descent circles around or runs
    away from the solution, it converges, for one gradient a step.

    The first step has no previous gradient and takes the current one in its place, so
    that it is one of length $\alpha_t a$. Versions of optax before this was settled
    there take 0 instead.

    **Arguments:**

    - `learning_rate`: $\alpha \ge 0$.
    - `alpha`: $a$, the weight of the gradient. Default 1.
    - `beta`: $b$, the weight of its change. Default 1.

    **Source:** Mokhtari, Ozdaglar and Pattathil, [A Unified Analysis of Extra-gradient
    and Optimistic Gradient Methods for Saddle Point Problems: Proximal Point
    Approach](https://arxiv.org/abs/1901.08511), 2019.

    !!! example

        ```pycon
        >>> import jax, jax.numpy as jnp, eqxopt
        >>> f = lambda x: jnp.sum(x**2)
        >>> x = jnp.array([1.0, 2.0, 3.0])
        >>> opt = eqxopt.OptimisticGradientDescent(learning_rate=0.003).init(x)
        >>> for _ in range(5):
        ...     x, opt = opt.apply(jax.grad(f)(x), x)
        >>> print(f"{f(x):.2f}")
        13.19

        ```
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)")
    alpha: Hyperparameter = hyperparameter("(-inf, inf)", default=1.0)
    beta: Hyperparameter = hyperparameter("(-inf, inf)", default=1.0)

    def init_leaf(self, param: Leaf) -> PreviousGradient:
        return PreviousGradient(zeros_like(param))

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: PreviousGradient
    ) -> tuple[Leaf, PreviousGradient]:
        previous = jnp.where(t == 1, grad, state.gradient)
        direction = self.alpha * grad + self.beta * (grad - previous)
        return -self.learning_rate * direction, PreviousGradient(grad)
