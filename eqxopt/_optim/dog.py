"""Distance over gradients, and over weighted gradients."""

from collections.abc import Sequence
from typing import Any, ClassVar, get_args, Literal, NamedTuple

import jax.numpy as jnp

from .._abstract.coupled import AbstractCoupledOptimizer
from .._fields import (
    Hyperparameter,
    hyperparameter,
    mask_of,
    OptionalHyperparameter,
    OptionalMask,
    word,
)
from .._math import divide, own_copy, sqrt, squarable, squared_norm, sum_of_squares
from .._types import AnyLeaf, Leaf, Scalar


InitStepType = Literal["heuristic", "distance", "learning_rate"]


class Start(NamedTuple):
    """Where a parameter was before the first update."""

    start: Leaf


class Squares(NamedTuple):
    """The squared norms of the way from the start and of the gradient."""

    way: Scalar
    gradient: Scalar


class Distance(NamedTuple):
    """The largest distance from the start so far, the sum of the squared norms of all
    gradients, and the step size of the last update, without the learning rate."""

    distance: Scalar
    sum_of_squares: Scalar
    step_size: Scalar


class SquaredDistance(NamedTuple):
    """`Distance` with the squared distance and a weighted sum of squared norms."""

    squared_distance: Scalar
    weighted_sum: Scalar
    step_size: Scalar


class DoG(AbstractCoupledOptimizer):
    r"""Distance over gradients: gradient descent that needs no learning rate.

    $$
    \begin{aligned}
    g'_t &= g_t + \lambda \theta_{t-1} \\
    \bar r_t &= \max(\bar r_{t-1}, \|\theta_{t-1} - \theta_0\|) \\
    G_t &= G_{t-1} + \|g'_t\|^2 \\
    \eta_t &= \bar r_t / \sqrt{G_t + \varepsilon}, \qquad u_t = -\alpha_t \eta_t g'_t
    \end{aligned}
    $$

    The norms are those of all parameters together. `opt.shared.step_size` is
    $\eta_t$. `init_step` $\rho$ and `init_step_type` make the first step:

    - `"heuristic"`, the default: $\bar r_0 = \rho\, (1 + \|\theta_0\|)$. The paper
        advises 1e-6, and 1e-4 for networks with batch normalization;
    - `"distance"`: $\bar r_0 = \rho$;
    - `"learning_rate"`: $\eta_1 = \rho$, and $\bar r_0 = 0$.

    Evaluate an average of the weights: wrap this in [`eqxopt.EMA`][]. First steps this
    small are lost on parameters in less than float32, which then never move. The paper
    counts $\varepsilon$ in $G_0$, which is the same.

    **Arguments:**

    - `learning_rate`: $\alpha$, in [0, inf). Default 1, which there is little reason to
        change other than by a schedule.
    - `init_step`: $\rho$, in [0, inf), one number for the whole model. Default 1e-6.
    - `eps`: $\varepsilon$, in [0, inf), one number for the whole model. Default 1e-8.
        Where also the gradients are 0, so is the step.
    - `weight_decay`: $\lambda$, in [0, inf), which is part of the gradient. Default 0.
    - `mask`: which parameters decay, a [selector][selectors]. Default: all.
    - `init_step_type`: one of the three; optax pairs it with `init_step`. Keyword only.

    **Source:** Ivgi et al., [DoG is SGD's Best Friend: A Parameter-Free Dynamic Step
    Size Schedule](https://arxiv.org/abs/2302.12022), 2023.
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)", default=1.0)
    init_step: Hyperparameter = hyperparameter("[0, inf)", default=1e-6)
    eps: Hyperparameter = hyperparameter("[0, inf)", default=1e-8)
    weight_decay: Hyperparameter = hyperparameter("[0, inf)", default=0.0)
    mask: OptionalMask = mask_of("weight_decay", default=None)
    init_step_type: InitStepType = word(
        "init_step_type", *get_args(InitStepType), default="heuristic", kw_only=True
    )
    shared_hyperparameters: ClassVar = ("init_step", "eps")

    def init_leaf(self, param: Leaf) -> Start:
        return Start(own_copy(param))

    def init_shared(self, params: Sequence[AnyLeaf]) -> Distance:
        distance = zero = jnp.zeros_like(self.init_step)
        if self.init_step_type == "heuristic":
            distance = self.init_step * (1 + sqrt(sum_of_squares(params)))
        elif self.init_step_type == "distance":
            distance = self.init_step
        return Distance(distance, zero, zero)

    def measure_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: Start, shared: Distance
    ) -> tuple[Squares, Start]:
        grad = squarable(grad + self.weight_decay * param)
        return Squares(squared_norm(param - state.start), squared_norm(grad)), state

    def update_shared(
        self, t: Scalar, sums: Squares, shared: Distance, value: Any
    ) -> Distance:
        distance = jnp.maximum(shared.distance, sqrt(sums.way))
        total = shared.sum_of_squares + sums.gradient
        step_size = divide(distance, sqrt(total + self.eps))
        if self.init_step_type == "learning_rate":
            first = shared.sum_of_squares == 0
            step_size = jnp.where(first, self.init_step, step_size)
        return Distance(distance, total, step_size)

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: Start, shared: Distance
    ) -> Leaf:
        grad = squarable(grad + self.weight_decay * param)
        return -self.learning_rate * shared.step_size * grad


class DoWG(AbstractCoupledOptimizer):
    r"""Distance over weighted gradients: gradient descent that needs no learning rate,
    and that forgets the gradients near the start.

    $$
    \begin{aligned}
    g'_t &= g_t + \lambda \theta_{t-1} \\
    \bar r_t^2 &= \max(\bar r_{t-1}^2, \|\theta_{t-1} - \theta_0\|^2) \\
    v_t &= v_{t-1} + \bar r_t^2\, \|g'_t\|^2 \\
    \eta_t &= \bar r_t^2 / (\sqrt{v_t} + \varepsilon), \qquad
    u_t = -\alpha_t \eta_t g'_t
    \end{aligned}
    $$

    Norms and `opt.shared.step_size` are as in [`eqxopt.DoG`][]. The paper has no
    $\varepsilon$, which is that of its authors' code and of optax, and stands for $\bar
    r_0^2$ as well. The steps are longer than those of [`eqxopt.DoG`][], the more so the
    faster the distance grows. With noisy gradients a network may diverge; half the
    `learning_rate` then helps.

    **Arguments:**

    - `learning_rate`: $\alpha$, in [0, inf). Default 1, as in [`eqxopt.DoG`][].
    - `init_estim_sq_dist`: $\bar r_0^2$, in [0, inf), one number for the whole model.
        Default `None`, which takes $\varepsilon$.
    - `eps`: $\varepsilon$, in [0, inf), one number for the whole model. Default 1e-4.
    - `weight_decay`: $\lambda$, in [0, inf), which is part of the gradient. Default 0.
    - `mask`: which parameters decay, a [selector][selectors]. Default: all.

    **Source:** Khaled et al., [DoWG Unleashed: An Efficient Universal Parameter-Free
    Gradient Descent Method](https://arxiv.org/abs/2305.16284), 2023.
    """

    learning_rate: Hyperparameter = hyperparameter("[0, inf)", default=1.0)
    init_estim_sq_dist: OptionalHyperparameter = hyperparameter(
        "[0, inf)", default=None
    )
    eps: Hyperparameter = hyperparameter("[0, inf)", default=1e-4)
    weight_decay: Hyperparameter = hyperparameter("[0, inf)", default=0.0)
    mask: OptionalMask = mask_of("weight_decay", default=None)
    shared_hyperparameters: ClassVar = ("init_estim_sq_dist", "eps")

    def init_leaf(self, param: Leaf) -> Start:
        return Start(own_copy(param))

    def init_shared(self, params: Sequence[AnyLeaf]) -> SquaredDistance:
        first = self.init_estim_sq_dist
        zero = jnp.zeros_like(self.eps)
        return SquaredDistance(self.eps if first is None else first, zero, zero)

    def measure_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: Start, shared: SquaredDistance
    ) -> tuple[Squares, Start]:
        grad = squarable(grad + self.weight_decay * param)
        return Squares(squared_norm(param - state.start), squared_norm(grad)), state

    def update_shared(
        self, t: Scalar, sums: Squares, shared: SquaredDistance, value: Any
    ) -> SquaredDistance:
        distance = jnp.maximum(shared.squared_distance, sums.way)
        total = shared.weighted_sum + distance * sums.gradient
        step_size = divide(distance, sqrt(total) + self.eps)
        return SquaredDistance(distance, total, step_size)

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: Start, shared: SquaredDistance
    ) -> Leaf:
        grad = squarable(grad + self.weight_decay * param)
        return -self.learning_rate * shared.step_size * grad
