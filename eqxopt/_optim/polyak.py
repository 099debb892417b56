"""Gradient descent with Polyak's step size."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp

from .._abstract.coupled import AbstractCoupledOptimizer
from .._abstract.step import needed_value
from .._fields import Hyperparameter, hyperparameter, word
from .._math import divide, squared_norm
from .._types import AnyLeaf, Leaf, Scalar


class PolyakStep(NamedTuple):
    """The step size that would just reach the minimum, before its bound and scale."""

    step_size: Scalar


class PolyakSGD(AbstractCoupledOptimizer):
    r"""Gradient descent whose step would just reach the minimum of a straight line.

    $$
    u_t = -s \min\left( \frac{f(\theta_{t-1}) - f^\star}{\|g_t\|^2 + \varepsilon},
        \gamma \right) g_t
    $$

    The norm is that of all gradients together. `apply` needs the loss
    $f(\theta_{t-1})$: `opt.apply(grads, model, value=loss)`. The update is 0 if
    $\|g_t\|^2 + \varepsilon$ is at most the machine epsilon of its dtype.

    **Arguments:** `f_min` and `eps` are for the whole model.

    - `max_learning_rate`: $\gamma$, the largest step size, in [0, inf). Default 1.
    - `scaling`: $s$, in [0, inf). Default 1.
    - `f_min`: $f^\star$, a lower bound of the loss. Default 0, for a perfect fit.
    - `eps`: $\varepsilon$, in [0, inf). Default 0.
    - `variant`: `"sps"`, the default, or `"sps+"`, which takes a loss below
        $f^\star$ for $f^\star$ and so never goes uphill.

    **Raises:** a `ValueError` if `apply` is not given the loss.

    **Source:** Loizou et al., [Stochastic Polyak Step-size for
    SGD](https://arxiv.org/abs/2002.10542), 2021; Garrigos et al., [Function Value
    Learning](https://arxiv.org/abs/2307.14528), 2023, for `"sps+"`.
    """

    max_learning_rate: Hyperparameter = hyperparameter("[0, inf)", default=1.0)
    scaling: Hyperparameter = hyperparameter("[0, inf)", default=1.0)
    f_min: Hyperparameter = hyperparameter("(-inf, inf)", default=0.0)
    eps: Hyperparameter = hyperparameter("[0, inf)", default=0.0)
    variant: Literal["sps", "sps+"] = word("variant", "sps", "sps+", default="sps")
    shared_hyperparameters = ("f_min", "eps")

    def init_leaf(self, param: Leaf) -> tuple[()]:
        return ()

    def init_shared(self, params: Sequence[AnyLeaf]) -> PolyakStep:
        return PolyakStep(jnp.zeros_like(self.f_min))

    def measure_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: tuple[()], shared: PolyakStep
    ) -> tuple[Scalar, tuple[()]]:
        return squared_norm(grad), state

    def update_shared(
        self, t: Scalar, sums: Scalar, shared: PolyakStep, value: Any
    ) -> PolyakStep:
        gap = needed_value(self, value) - self.f_min
        if self.variant == "sps+":
            gap = jnp.maximum(gap, 0)
        below = sums + self.eps
        vanishing = below <= jnp.finfo(below.dtype).eps
        # `divide` by 0 gives 0.
        return PolyakStep(divide(gap, jnp.where(vanishing, 0, below)))

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: tuple[()], shared: PolyakStep
    ) -> Leaf:
        step_size = jnp.minimum(shared.step_size, self.max_learning_rate)
        return -self.scaling * step_size * grad
