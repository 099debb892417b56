"""Smaller steps where the loss has stopped falling."""

from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._abstract.optimizer import (
    AbstractOptimizer,
    count_of,
    inner,
    needed_value,
)
from .._abstract.rules import gradients, reached, scalar_of, started
from .._compile.once import once_per_shape
from .._dtype import real_dtype
from .._fields import (
    Hyperparameter,
    hyperparameter,
)
from .._math import select, zero_count
from .._tree import Parameters, replace_fields
from .._types import Amount, Count, Leaf, Scalar, Self


M = TypeVar("M")


class ReduceOnPlateau(AbstractOptimizer):
    r"""Shrinks the updates where the loss has stopped falling.

    Of every $n$ losses the mean $f$ is compared with the best one so far, $f^\star$. It
    is better if

    $$
    f < (1 - r) f^\star - a
    $$

    After $p$ means in a row that are not better, `scale`, by which all updates are
    multiplied, becomes $\max(\gamma\, \mathrm{scale}, s)$, and for the next $c$ means
    none of them counts as worse. The loss goes to `apply`:
    `opt.apply(grads, model, value=loss)`.

    The arguments and their meaning are those of optax. PyTorch's scheduler of that name
    shrinks one comparison later with the same `patience`.

    **Arguments:**

    - `optimizer`: any optimizer.
    - `factor`: $\gamma \in (0, 1)$. Default 0.1.
    - `patience`: $p \ge 1$. Default 10.
    - `rtol`: $r \in [0, 1)$. Default 1e-4.
    - `atol`: $a \ge 0$. Default 0.
    - `cooldown`: $c \ge 0$. Default 0.
    - `accumulation_size`: $n \ge 1$. Default 1, which suits a loss on validation data;
        that of one batch is noisy, so take more.
    - `min_scale`: $s \ge 0$. Default 0.

    Each is a number or a schedule.

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

    optimizer: AbstractOptimizer = inner()
    factor: Hyperparameter = hyperparameter("(0, 1)", default=0.1)
    patience: Hyperparameter = hyperparameter("[1, inf)", default=10)
    rtol: Hyperparameter = hyperparameter("[0, 1)", default=1e-4)
    atol: Hyperparameter = hyperparameter("[0, inf)", default=0.0)
    cooldown: Hyperparameter = hyperparameter("[0, inf)", default=0)
    accumulation_size: Hyperparameter = hyperparameter("[1, inf)", default=1)
    min_scale: Hyperparameter = hyperparameter("[0, inf)", default=0.0)
    scale: Amount = eqx.field(default=None, init=False)
    """What updates are multiplied by."""
    best_value: Amount = eqx.field(default=None, init=False)
    """The best mean so far."""
    mean_value: Amount = eqx.field(default=None, init=False)
    """The mean of the losses since the last comparison."""
    value_count: Count = eqx.field(default=None, init=False)
    """The losses since the last comparison."""
    plateau_count: Count = eqx.field(default=None, init=False)
    """The comparisons since a mean was better."""
    cooldown_count: Count = eqx.field(default=None, init=False)
    """The comparisons for which none is counted yet."""

    def init(self, params: PyTree) -> Self:
        return replace_fields(
            started(self, Parameters(params)),
            optimizer=self.optimizer.init(params),
            scale=jnp.ones((), float),
            best_value=jnp.full((), jnp.inf, float),
            mean_value=jnp.zeros((), float),
            value_count=zero_count(),
            plateau_count=zero_count(),
            cooldown_count=zero_count(),
        )

    def update(
        self,
        grads: PyTree,
        params: PyTree,
        *,
        value: Any = None,
        value_fn: Callable[..., Any] | None = None,
    ) -> tuple[PyTree, Self]:
        count = count_of(self) + 1
        loss = needed_value(self, value)
        parameters = Parameters(params)
        gradients(self, grads, parameters)
        updates, optimizer = self.optimizer.update(
            grads, params, value=loss, value_fn=value_fn
        )
        fields = self._observed(loss.astype(float))
        scaled = [
            None if x is None else _scaled(x, fields["scale"])
            for x in parameters.align(updates, "the updates")
        ]
        return parameters.tree(scaled), replace_fields(
            self, optimizer=optimizer, count=count, **fields
        )

    def _observed(self, loss: Scalar) -> dict[str, Array]:
        """The fields after one more loss."""
        n = self.value_count + 1
        mean = self.mean_value + (loss - self.mean_value) / n.astype(float)
        full = reached(self, n, "accumulation_size")
        pending = {"mean_value": mean, "value_count": n}
        same = ("scale", "best_value", "plateau_count", "cooldown_count")
        pending |= {name: getattr(self, name) for name in same}
        return select(full, self._compared(mean), pending)

    def _compared(self, mean: Scalar) -> dict[str, Array]:
        """The fields after a mean is compared with the best."""
        threshold = (1 - scalar_of(self, "rtol")) * self.best_value
        better = mean < threshold - scalar_of(self, "atol")
        cooling = self.cooldown_count > 0
        plateau_count = jnp.where(better | cooling, 0, self.plateau_count + 1)
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

    def eval_params(self, params: M) -> M:
        return self.optimizer.eval_params(params)


@once_per_shape
def _scaled(update: Leaf, scale: Scalar) -> Leaf:
    return scale.astype(real_dtype(update.dtype)) * update
