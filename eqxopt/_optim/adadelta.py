"""Adadelta."""

from typing import NamedTuple

from .._abstract.leafwise import AbstractLeafwiseOptimizer
from .._dtype import real_zeros_like
from .._fields import (
    Hyperparameter,
    hyperparameter,
    mask_of,
    OptionalHyperparameter,
    OptionalMask,
)
from .._math import abs_sq, divide, ema, sqrt, squarable
from .._types import Leaf, Scalar, SecondMoment


class MeanSquares(NamedTuple):
    """Running means of the squares of a parameter's gradient and of its step."""

    e_g: SecondMoment
    e_x: SecondMoment


class Adadelta(AbstractLeafwiseOptimizer):
    r"""Adadelta: steps in the units of the parameter, as long as the steps before.

    $$
    \begin{aligned}
    \tilde g_t &= g_t + \lambda \theta_{t-1} \\
    E^g_t &= \rho E^g_{t-1} + (1 - \rho)\, |\tilde g_t|^2 \\
    x_t &= \sqrt{E^x_{t-1} + \varepsilon} \; \tilde g_t / \sqrt{E^g_t + \varepsilon} \\
    E^x_t &= \rho E^x_{t-1} + (1 - \rho)\, |x_t|^2 \\
    u_t &= -\alpha_t\, x_t
    \end{aligned}
    $$

    $\varepsilon$ also starts the steps, which begin at about
    $\sqrt{\varepsilon / (1 - \rho)}$ and grow from there. The learning rate scales what
    is added and not what is remembered; without one $u_t = -x_t$, as in the paper. The
    decay is added to the gradient, as in PyTorch and optax: it is not decoupled.

    **Arguments:**

    - `learning_rate`: $\alpha$, in [0, inf). Default `None`, no scaling.
    - `rho`: $\rho$, the decay of both means, in [0, 1). Default 0.9.
    - `eps`: $\varepsilon$, inside both roots, in [0, inf). Default 1e-6. With 0 nothing
        ever moves.
    - `weight_decay`: $\lambda$, in [0, inf). Default 0.
    - `weight_decay_mask`: a [selector][selectors] of those that decay. Default: all.

    **Source:** Zeiler, [ADADELTA: An Adaptive Learning Rate
    Method](https://arxiv.org/abs/1212.5701), 2012, whose experiments use $\rho = 0.95$
    with $\varepsilon$ from 1e-8 to 1e-2. The defaults are PyTorch's.
    """

    learning_rate: OptionalHyperparameter = hyperparameter("[0, inf)", default=None)
    rho: Hyperparameter = hyperparameter("[0, 1)", default=0.9)
    eps: Hyperparameter = hyperparameter("[0, inf)", default=1e-6)
    weight_decay: Hyperparameter = hyperparameter("[0, inf)", default=0.0)
    weight_decay_mask: OptionalMask = mask_of("weight_decay", default=None)

    def init_leaf(self, param: Leaf) -> MeanSquares:
        return MeanSquares(real_zeros_like(param), real_zeros_like(param))

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: MeanSquares
    ) -> tuple[Leaf, MeanSquares]:
        grad = squarable(grad + self.weight_decay * param)
        e_g = ema(state.e_g, abs_sq(grad), self.rho)
        # One root, of the quotient, because the root takes most of the time.
        x = sqrt(divide(state.e_x + self.eps, e_g + self.eps)) * grad
        e_x = ema(state.e_x, abs_sq(x), self.rho)
        update = -x if self.learning_rate is None else -self.learning_rate * x
        return update, MeanSquares(e_g, e_x)
