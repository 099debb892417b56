"""Steps that are made only if a condition holds."""

import jax.numpy as jnp
from jaxtyping import Array, Bool

from .._math import no_update, select
from .._types import Leaves
from .optimizer import AbstractOptimizer
from .step import Step


def advance_if(
    is_taken: Bool[Array, ""], optimizer: AbstractOptimizer, step: Step
) -> tuple[Leaves, AbstractOptimizer]:
    """The updates and the next optimizer where `is_taken`. Otherwise updates that
    leave every bit of the parameters, and `optimizer` as it is."""
    # Hide skipped values from the optimizer: even where its update is not selected, a
    # NaN in it makes derivatives NaN.
    grads = [None if x is None else jnp.where(is_taken, x, 0) for x in step.grads]
    value = None if step.value is None else jnp.where(is_taken, step.value, 0)
    updates, new = optimizer.advance(step._replace(grads=grads, value=value))
    chosen = [
        None if x is None else jnp.where(is_taken, x, no_update(x)) for x in updates
    ]
    return chosen, select(is_taken, new, optimizer)
