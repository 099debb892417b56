"""Smaller steps where the loss has stopped falling."""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from .._abstract.nested import inner
from .._abstract.optimizer import AbstractOptimizer
from .._abstract.rules import reached, scalar_of
from .._abstract.step import needed_value, Step
from .._abstract.wrapper import AbstractSharedWrapper
from .._fields import Hyperparameter, hyperparameter
from .._math import plus_one, select, zero_count
from .._tree import Parameters, replace_fields
from .._types import Amount, Count, Leaf, Scalar, Self


class ReduceOnPlateau(AbstractSharedWrapper):
    r"""Shrinks the updates where the loss has stopped falling. The mean $f$ of every
    $n$ losses is compared with the best mean so far, $f^\star$. It is better if

    $$
    f < (1 - r) f^\star - a
    $$

    All updates are multiplied by `scale`. After $p$ means in a row that are not better,
    `scale` becomes $\max(\gamma\, \mathrm{scale}, s)$, and the next $c$ means are not
    counted as worse. Give `apply` the loss: `opt.apply(grads, model, value=loss)`. The
    arguments and their meaning are those of optax. PyTorch's scheduler of the same name
    shrinks one comparison later for the same `patience`.

    **Arguments:** numbers or schedules, but for the first.

    - `optimizer`: any optimizer.
    - `factor`: $\gamma$, in (0, 1). Default 0.1.
    - `patience`: $p$, in [1, inf). Default 10.
    - `rtol`: $r$, in [0, 1). Default 1e-4.
    - `atol`: $a$, in [0, inf). Default 0.
    - `cooldown`: $c$, in [0, inf). Default 0.
    - `accumulation_size`: $n$, in [1, inf). Default 1, which suits a loss on validation
        data. The loss of one batch is noisy, so take more for it.
    - `min_scale`: $s$, in [0, inf), usually below 1: `scale` is raised to it at the
        first comparison. Default 0.

    **Raises:** a `ValueError` if `apply` is not given the loss.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp, eqxopt
        >>> params = jnp.array(1.0)
        >>> opt = eqxopt.ReduceOnPlateau(eqxopt.SGD(0.1), 0.5, patience=2).init(params)
        >>> for loss in [3.0, 2.0, 2.0, 2.0]:
        ...     params, opt = opt.apply(jnp.ones(()), params, value=loss)
        >>> print(opt.scale, f"{params:.2f}")
        0.5 0.65

        ```
    """

    passes_gradients: ClassVar[bool] = True

    optimizer: AbstractOptimizer = inner()
    factor: Hyperparameter = hyperparameter("(0, 1)", default=0.1)
    patience: Hyperparameter = hyperparameter("[1, inf)", default=10)
    rtol: Hyperparameter = hyperparameter("[0, 1)", default=1e-4)
    atol: Hyperparameter = hyperparameter("[0, inf)", default=0.0)
    cooldown: Hyperparameter = hyperparameter("[0, inf)", default=0)
    accumulation_size: Hyperparameter = hyperparameter("[1, inf)", default=1)
    min_scale: Hyperparameter = hyperparameter("[0, inf)", default=0.0)
    scale: Amount = eqx.field(default=None, init=False)
    """The factor of all updates."""
    best_value: Amount = eqx.field(default=None, init=False)
    """The best mean so far; the largest number before the first."""
    mean_value: Amount = eqx.field(default=None, init=False)
    """The mean of the losses since the last comparison."""
    value_count: Count = eqx.field(default=None, init=False)
    """The number of losses since the last comparison."""
    plateau_count: Count = eqx.field(default=None, init=False)
    """The number of comparisons since a mean was better."""
    cooldown_count: Count = eqx.field(default=None, init=False)
    """The number of comparisons for which the cooldown still lasts."""

    def start_shared(self, parameters: Parameters) -> Self:
        scale = jnp.ones((), float)
        return replace_fields(
            self,
            scale=scale,
            # Not infinity, which `jax.debug_infs` takes for an error.
            best_value=jnp.full((), jnp.finfo(scale.dtype).max, float),
            mean_value=jnp.zeros((), float),
            value_count=zero_count(),
            plateau_count=zero_count(),
            cooldown_count=zero_count(),
        )

    def lower(self, step: Step) -> tuple[Step, Self]:
        loss = needed_value(self, step.value).astype(float)
        return step, replace_fields(self, **self._observed(loss))

    def init_leaf(self, param: Leaf) -> tuple[()]:
        return ()

    def wrap_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, update: Leaf, state: tuple[()]
    ) -> tuple[Leaf, tuple[()]]:
        return self.scale.astype(t.dtype) * update, ()

    def eval_leaf(self, param: Leaf, evaluated: Leaf, state: tuple[()]) -> Leaf:
        return evaluated

    def _observed(self, loss: Scalar) -> dict[str, Array]:
        """The fields after one more loss."""
        n = plus_one(self.value_count)
        mean = self.mean_value + (loss - self.mean_value) / n.astype(float)
        full = reached(self, n, "accumulation_size")
        pending = {"mean_value": mean, "value_count": n}
        same = ("scale", "best_value", "plateau_count", "cooldown_count")
        pending |= {name: getattr(self, name) for name in same}
        return select(full, self._compared(mean), pending)

    def _compared(self, mean: Scalar) -> dict[str, Array]:
        """The fields after a comparison of `mean` with the best."""
        threshold = (1 - scalar_of(self, "rtol")) * self.best_value
        better = mean < threshold - scalar_of(self, "atol")
        cooling = self.cooldown_count > 0
        plateau_count = jnp.where(better | cooling, 0, plus_one(self.plateau_count))
        reduce = reached(self, plateau_count, "patience")
        smaller = scalar_of(self, "factor") * self.scale
        scale = jnp.maximum(
            jnp.where(reduce, smaller, self.scale), scalar_of(self, "min_scale")
        )
        cooldown = scalar_of(self, "cooldown").astype(jnp.int32)
        return {
            "scale": jnp.where(cooling, self.scale, scale),
            "best_value": jnp.where(better, mean, self.best_value),
            "mean_value": jnp.zeros_like(self.mean_value),
            "value_count": jnp.zeros_like(self.value_count),
            "plateau_count": jnp.where(reduce, 0, plateau_count),
            "cooldown_count": jnp.where(
                cooling, self.cooldown_count - 1, jnp.where(reduce, cooldown, 0)
            ),
        }
