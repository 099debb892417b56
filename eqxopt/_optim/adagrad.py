"""Adagrad."""

from typing import NamedTuple

from .._abstract.leafwise import AbstractLeafwiseOptimizer
from .._dtype import real_zeros_like
from .._fields import Hyperparameter, hyperparameter
from .._math import abs_sq, divide, sqrt, squarable
from .._types import Leaf, RealLeaf, Scalar


class SumOfSquares(NamedTuple):
    """The sum of the squares of all gradients so far."""

    sum_of_squares: RealLeaf


class Adagrad(AbstractLeafwiseOptimizer):
    r"""Adagrad: steps that shrink, entry by entry, with the gradients seen so far.

    $$
    \begin{aligned}
    G_t &= G_{t-1} + |g_t|^2 \\
    u_t &= -\alpha_t\, g_t / \sqrt{G_t + \varepsilon}
    \end{aligned}
    $$

    The sum never forgets, so the steps tend to 0. That is right for convex problems and
    sparse gradients; in long training of a network the steps become too short.

    $\varepsilon$ is inside the root and $G_0$ is above 0, as in optax. In PyTorch
    $\varepsilon$ is outside and $G_0 = 0$, so that the first step has the learning rate
    as its length. Where $G_t + \varepsilon = 0$, the step is 0.

    **Arguments:**

    - `learning_rate`: $\alpha$, in [0, inf).
    - `initial_accumulator_value`: $G_0$, in [0, inf). Default 0.1.
    - `eps`: $\varepsilon$, inside the root, in [0, inf). Default 1e-7.

    **Source:** Duchi, Hazan and Singer, [Adaptive Subgradient Methods for Online
    Learning and Stochastic Optimization](https://jmlr.org/papers/v12/duchi11a.html),
    2011. The defaults are TensorFlow's.
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)")
    initial_accumulator_value: Hyperparameter = hyperparameter("[0, inf)", default=0.1)
    eps: Hyperparameter = hyperparameter("[0, inf)", default=1e-7)

    def init_leaf(self, param: Leaf) -> SumOfSquares:
        return SumOfSquares(real_zeros_like(param) + self.initial_accumulator_value)

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: SumOfSquares
    ) -> tuple[Leaf, SumOfSquares]:
        grad = squarable(grad)
        total = state.sum_of_squares + abs_sq(grad)
        direction = divide(grad, sqrt(total + self.eps))
        return -self.learning_rate * direction, SumOfSquares(total)
