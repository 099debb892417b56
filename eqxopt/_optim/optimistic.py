"""Optimistic gradient descent."""

from typing import NamedTuple

import jax.numpy as jnp

from .._abstract.leafwise import AbstractLeafwiseOptimizer
from .._dtype import zeros_like
from .._fields import Hyperparameter, hyperparameter
from .._types import FirstMoment, Leaf, Scalar


class PreviousGradient(NamedTuple):
    """A parameter's gradient in the last update; zeros before the first."""

    gradient: FirstMoment


class OptimisticGradientDescent(AbstractLeafwiseOptimizer):
    r"""Gradient descent that counts on the gradient to change as it just did.

    $$
    u_t = -\alpha_t \left( (a + b)\, g_t - b\, g_{t-1} \right), \qquad g_0 = g_1
    $$

    With $a = b = 1$ this is a step along $g_t + (g_t - g_{t-1})$, a guess of the next
    gradient. In games of two players, where gradient descent circles the solution or
    runs away from it, this converges, for one gradient a step. The first step has no
    previous gradient and takes the current one in its place, so it is $-\alpha_1 a\,
    g_1$. Earlier versions of optax take 0 instead.

    **Arguments:**

    - `learning_rate`: $\alpha$, in [0, inf).
    - `alpha`: $a$, the weight of the gradient. Default 1.
    - `beta`: $b$, the weight of its change. Default 1.

    **Source:** Mokhtari, Ozdaglar and Pattathil, [A Unified Analysis of Extra-gradient
    and Optimistic Gradient Methods for Saddle Point Problems: Proximal Point
    Approach](https://arxiv.org/abs/1901.08511), 2019.
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
