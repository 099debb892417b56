"""Steps that are made only if a condition holds."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from .._abstract.optimizer import AbstractOptimizer
from .._math import no_update, select
from .._tree import Parameters
from .._types import AnyLeaf, Scalar


def update_if(
    made: Bool[Array, ""],
    optimizer: AbstractOptimizer,
    grads: Sequence[AnyLeaf | None],
    parameters: Parameters,
    *,
    value: Scalar | None,
    value_fn: Callable[..., Any] | None,
) -> tuple[PyTree, AbstractOptimizer]:
    """The updates and the next optimizer where the step is made; elsewhere updates that
    leave every bit of the parameters, and `optimizer` as it is."""
    # The optimizer never sees what is skipped: even an update that is not chosen would
    # make NaNs of derivatives.
    seen = [None if x is None else jnp.where(made, x, 0) for x in grads]
    updates, new = optimizer.update(
        parameters.tree(seen),
        parameters.tree(parameters.arrays, rest=True),
        value=None if value is None else jnp.where(made, value, 0),
        value_fn=value_fn,
    )
    chosen = [
        None if x is None else jnp.where(made, x, no_update(x))
        for x in parameters.align(updates, "the updates")
    ]
    return parameters.tree(chosen), select(made, new, optimizer)
