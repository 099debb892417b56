"""The inverse Hessian of L-BFGS, from the last changes of parameters and gradients."""

from collections.abc import Sequence
from typing import Any, cast, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Inexact, Int

from .._compile.once import once_per_shape
from .._dtype import real_dtype
from .._math import divide
from .._sharding import tied_together
from .._types import AnyLeaf, Leaf, Scalar
from ._pairs import (
    first_scale,
    has_curvature,
    inner_products,
    is_positive,
    Last,
    Pair,
    pair_products,
    times,
    total,
)


Arrays: TypeAlias = Sequence[AnyLeaf]
Some: TypeAlias = Sequence[Bool[Array, "..."] | None]
"""Some entries of each parameter, `None` for all of them."""


class CurvatureMemory(NamedTuple):
    r"""What L-BFGS keeps of one parameter: its last gradient, its last pairs in a ring
    buffer with $\langle s, y \rangle$ and $\|y\|^2$, and without a line search its last
    value."""

    grad: Leaf
    param_diffs: Inexact[Array, " memory *shape"]
    grad_diffs: Inexact[Array, " memory *shape"]
    sy: Float[Array, " memory"]
    yy: Float[Array, " memory"]
    param: Leaf | None

    def pair(self, index: Int[Array, ""]) -> Pair:
        return Pair(self.param_diffs[index], self.grad_diffs[index])


def empty_memory(last: Last, size: int) -> CurvatureMemory:
    # Stacked from zeros like the parameter, so that all but the first axis are sharded
    # like it.
    zero = cast(Array, last.grad)
    diffs = lambda: jnp.stack([zero] * size)
    numbers = lambda: jnp.zeros(size, real_dtype(zero.dtype))
    return CurvatureMemory(zero, diffs(), diffs(), numbers(), numbers(), last.param)


def preconditioned(
    memories: Sequence[CurvatureMemory],
    grads: Arrays,
    newest: Int[Array, ""],
    *,
    scale_identity: bool,
    has_failed: Bool[Array, ""] | None = None,
    free: Some | None = None,
) -> Arrays:
    r"""$H g$, the inverse Hessian times the gradients, by the two-loop recursion of
    L-BFGS. `newest` is the index of the newest pair in the ring buffers. Where this
    direction `has_failed`, a multiple of the gradients. With `free` the recursion runs
    over these entries, as if there were no others."""
    size = memories[0].param_diffs.shape[0]
    every = jnp.arange(size, dtype=newest.dtype)
    newest_first = (newest - every) % size

    def pairs_at(index: Int[Array, ""]) -> list[Pair]:
        pairs = [memory.pair(index) for memory in memories]
        if free is None:
            return pairs
        s, y = zip(*pairs)
        return [Pair(*pair) for pair in zip(_only(free, s), _only(free, y))]

    # The sums are over the parameters that have a gradient now. They are 0 where the
    # buffer is not filled yet. Leave pairs of negative curvature out.
    if free is None:
        sy, yy = total([(memory.sy, memory.yy) for memory in memories])
        used = sy > 0
    else:
        sy, yy, used = jax.lax.map(lambda index: _products(pairs_at(index)), every)
    sy, yy, used = sy[newest_first], yy[newest_first], used[newest_first]
    sy = jnp.where(used, sy, 1)

    # The factor of every vector ends in a division or a root. XLA computes what is
    # cheaper again for each parameter, and with it the sums over all parameters.
    def first_loop(q: Arrays, products: Any) -> Any:
        index, sy, used = products
        pairs = pairs_at(index)
        sq = inner_products([pair.s for pair in pairs], q)
        sq = jnp.where(used, sq, 0)
        q = [_plus(x, -(sq / sy), pair.y) for pair, x in zip(pairs, q)]
        return q, sq

    def second_loop(r: Arrays, products: Any) -> Any:
        index, sq, sy, used = products
        pairs = pairs_at(index)
        yr = inner_products([pair.y for pair in pairs], r)
        rest = jnp.where(used, sq - yr, 0)
        r = [_plus(x, rest / sy, pair.s) for pair, x in zip(pairs, r)]
        return r, None

    if free is not None:
        grads = _only(free, grads)
    first = first_scale(grads)
    first = first if scale_identity else jnp.ones_like(first)
    # The sums over all parameters make every vector vary as any of them does.
    q = tied_together(list(grads), memories, newest)
    q, sq = jax.lax.scan(first_loop, q, (newest_first, sy, used))
    scale = first
    if scale_identity:
        # The newest pair may say nothing of the entries that are free now.
        i = 0 if free is None else jnp.argmax(used)
        known = used[i] & jnp.isfinite(sy[i]) & (yy[i] > 0)
        newest_scale = divide(jnp.where(known, sy[i], 0), yy[i])
        scale = jnp.where(known, newest_scale, first)
    r = [times(x, scale) for x in q]
    products = newest_first, sq, sy, used
    r, _ = jax.lax.scan(second_loop, r, products, reverse=True)
    # H is positive definite, except for rounding.
    downhill = is_positive(inner_products(r, grads))
    if has_failed is not None:
        downhill &= ~has_failed
    return [jnp.where(downhill, x, times(grad, first)) for x, grad in zip(r, grads)]


def scale_of_newest(
    memories: Sequence[CurvatureMemory], grads: Arrays, newest: Int[Array, ""]
) -> Scalar:
    r"""$\gamma$, the length of a step against the gradient."""
    index = newest % memories[0].param_diffs.shape[0]
    sy, yy = total([(memory.sy[index], memory.yy[index]) for memory in memories])
    known = (sy > 0) & jnp.isfinite(sy) & (yy > 0)
    return jnp.where(known, divide(jnp.where(known, sy, 0), yy), first_scale(grads))


def _only(some: Some, arrays: Arrays) -> list[AnyLeaf]:
    """The arrays with 0 in all other entries."""
    return [x if own is None else jnp.where(own, x, 0) for own, x in zip(some, arrays)]


def _products(pairs: Sequence[Pair]) -> tuple[Scalar, Scalar, Bool[Array, ""]]:
    r"""$\langle s, y \rangle$ and $\|y\|^2$, and whether the pair is of use."""
    sy, _, yy = total([pair_products(pair) for pair in pairs])
    return sy, yy, has_curvature(pairs)


@once_per_shape
def _plus(x: Leaf, factor: Scalar, y: Leaf) -> Leaf:
    return x + factor.astype(real_dtype(x.dtype)) * y


@once_per_shape
def with_pair(
    memory: CurvatureMemory, pair: Pair, index: Int[Array, ""], store: Bool[Array, ""]
) -> CurvatureMemory:
    """The memory with `pair` at `index` of its ring buffer, if `store` holds."""

    sy, _, yy = pair_products(pair)
    here = store & (jnp.arange(memory.sy.size, dtype=index.dtype) == index)

    def stored(old: Array, new: Array) -> Array:
        # A row in its shards, where the assignment to an index would not know its own.
        row = jnp.where(store, new, old[index]).astype(old.dtype)
        return jax.lax.dynamic_update_index_in_dim(old, row, index, 0)

    return memory._replace(
        param_diffs=stored(memory.param_diffs, pair.s),
        grad_diffs=stored(memory.grad_diffs, pair.y),
        sy=jnp.where(here, sy, memory.sy),
        yy=jnp.where(here, yy, memory.yy),
    )
