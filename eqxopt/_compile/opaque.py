"""Numbers that the compiler cannot know."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

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
    known indices; the batches of Muon: 3.2 s, and 4.4 s; the rows of AdamW's stacks,
    300 parameters: 2.9 s, and 14.1 s.

    `count` is the count of updates: the compiler cannot tell that it is never
    negative.
    """
    return _choice(tuple(indices))(count)


def opaque_zeros(length: int, count: Int[Array, ""]) -> list[UInt[Array, ""]]:
    """Zeros that the compiler knows neither to be 0 nor to be equal.

    What is computed from two of them is computed twice. Otherwise a compiler keeps what
    two kernels need, however large it is, in an array of its own, unless it costs
    little. Updates of LaProp with moments in 8 bits, 16.8M entries, jax 0.10.2 on CPU,
    November 2026: 2.4 bytes of other memory an entry, and 9.3 with one zero for all.
    """
    return [(count < -k).astype(np.uint32) for k in range(length)]


@functools.lru_cache
def _choice(indices: tuple[int, ...]) -> Callable[[Int[Array, ""]], Any]:
    @jax.custom_batching.custom_vmap
    def choice(count: Int[Array, ""]) -> Any:
        return jax.lax.cond(
            count < 0,
            lambda: tuple(np.uint32(0) for _ in indices),
            lambda: tuple(np.uint32(i) for i in indices),
        )

    # A whole population has the same indices. Its slices would be gathers otherwise.
    # AdamW, 60 parameters, a population of 16, as above: 4.4 s to compile, and 9.9 s.
    @choice.def_vmap
    def _(axis_size: int, batched: list[bool], count: Int[Array, " size"]) -> Any:
        return choice(count[0]), (False,) * len(indices)

    return choice
