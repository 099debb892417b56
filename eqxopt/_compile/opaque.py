"""Places in an array that the compiler does not know."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int


def hidden(places: Sequence[int], count: Int[Array, ""]) -> tuple[Int[Array, ""], ...]:
    """`places`, as numbers at which slices of one size share a kernel. Slices at places
    that the compiler knows are a kernel each, with all that is computed of them, which
    can take most of the time to compile.

    `count` is that of the updates: the compiler cannot tell that it is not negative.
    """
    return jax.lax.cond(
        count < 0,
        lambda: tuple(jnp.zeros((), jnp.int32) for _ in places),
        lambda: tuple(jnp.asarray(place, jnp.int32) for place in places),
    )
