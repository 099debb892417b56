"""Whether line searches still lead anywhere."""

import jax.numpy as jnp
from jaxtyping import Array, Bool

from .._line_search.abstract import Point
from .._types import Count, Scalar


MOST_FAILURES = 4
"""After how many searches in a row that found nothing no other is begun."""
MOST_LEVEL_STEPS = 20
"""After how many level steps the next must not be one."""


def unit_after(failures: Count, dtype: jnp.dtype) -> Scalar:
    """The unit of step sizes after a failure. The second search has another direction.
    The others begin about where the one before has ended, after twenty halvings."""
    halvings = 20 * jnp.clip(failures - 1, 0, MOST_FAILURES - 2)
    return jnp.exp2(-halvings.astype(dtype))


def compared(
    start: Point, end: Point, old_norm: Scalar, new_norm: Scalar
) -> tuple[Bool[Array, ""], Bool[Array, ""]]:
    """Whether the end of a search shows no progress, neither in the loss nor in the
    gradients, and whether the loss fell clearly. The errors of a loss may be far more
    than rounding, so only a fall that is much larger shows where steps have led."""
    eps, size = jnp.finfo(end.value.dtype).eps, jnp.abs(start.value)
    rise, rounding = end.value - start.value, 16 * eps * size
    is_smaller = (new_norm < old_norm) & (rise <= rounding)
    return ~(rise < -rounding) & ~is_smaller, rise < -(eps**0.5) * size
