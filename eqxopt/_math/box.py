"""Steps to the bounds of a box."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from .._types import RealLeaf


def step_to_low(param: RealLeaf, low: Float[Array, "..."]) -> RealLeaf:
    """The update that takes `param` to `low`, or because of rounding a little above."""
    step = low - param
    # `param + step` may be rounded to the wrong side of the bound.
    return jnp.where(param + step < low, nudged_up(step), step)


def step_to_high(param: RealLeaf, high: Float[Array, "..."]) -> RealLeaf:
    """The update that takes `param` to `high`, or because of rounding a little
    below."""
    return -step_to_low(-param, -high)


def nudged_up(x: RealLeaf) -> RealLeaf:
    """`x` increased by one or two units in the last place."""
    return x + jnp.finfo(x.dtype).eps * jnp.abs(x)
