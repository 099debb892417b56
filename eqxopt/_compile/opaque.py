"""Numbers that the compiler cannot know."""

from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Array, Int, UInt


def opaque_indices(
    indices: Sequence[int], count: Int[Array, ""]
) -> tuple[UInt[Array, ""], ...]:
    """`indices` as numbers that the compiler cannot fold into the program.

    Slices of one size at unknown indices share one kernel. At known indices each gets
    a kernel of its own, with everything that is computed from it. The keys of NoisySGD,
    60 parameters, jax 0.10.2 on CPU, November 2026: 7.0 s to compile, and 14.6 s with
    known indices; the batches of Muon: 3.2 s, and 4.4 s.

    `count` is the count of updates: the compiler cannot tell that it is never
    negative.
    """
    return jax.lax.cond(
        count < 0,
        lambda: tuple(np.uint32(0) for _ in indices),
        lambda: tuple(np.uint32(i) for i in indices),
    )
