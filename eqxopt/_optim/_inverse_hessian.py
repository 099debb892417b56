"""Curvature as the last changes of parameters and gradients tell it."""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool, Inexact, Int

from .._compile.once import once_per_shape
from .._dtype import compute_dtype, real_dtype, widest_real_dtype
from .._math import divide, inner_product, own_copy, sqrt
from .._types import AnyLeaf, Leaf, Scalar


T = TypeVar("T")
Arrays: TypeAlias = Sequence[AnyLeaf]


class Change(NamedTuple):
    """The change of one parameter in a step, and that of its gradient."""

    param: Leaf
    grad: Leaf


class History(NamedTuple):
    """A parameter's last gradient, and its last changes and those of its gradient, in a
    ring; and, if it is to be compared with the next, its last value."""

    grad: Leaf
    param_diffs: Inexact[Array, " memory *shape"]
    grad_diffs: Inexact[Array, " memory *shape"]
    param: Leaf | None

    def at(self, place: Int[Array, ""]) -> Change:
        return Change(self.param_diffs[place], self.grad_diffs[place])


def empty_history(param: Leaf, memory: int, *, keep_param: bool) -> History:
    dtype = compute_dtype(param.dtype)
    # Computed from the parameter, so that all but the first axis are sharded like it.
    zero = jnp.where(jnp.isnan(param), jnp.zeros((), dtype), jnp.zeros((), dtype))
    diffs = lambda: jnp.stack([zero] * memory)
    return History(zero, diffs(), diffs(), own_copy(param) if keep_param else None)


def total(shares: Sequence[T]) -> T:
    """The sum over all parameters, in the widest dtype among them."""
    dtype = widest_real_dtype(jtu.tree_leaves(shares))
    return jtu.tree_map(
        lambda *xs: jnp.sum(jnp.stack([x.astype(dtype) for x in xs])), *shares
    )


def inner_products(x: Arrays, y: Arrays) -> Scalar:
    r"""$\\langle x, y \\rangle$ over all parameters."""
    return total([inner_product(a, b) for a, b in zip(x, y)])


def preconditioned(
    histories: Sequence[History],
    grads: Arrays,
    newest: Int[Array, ""],
    *,
    scale_identity: bool,
) -> Arrays:
    r"""$H g$, the inverse Hessian times the gradients, by L-BFGS's two loops. In the
    rings, `newest` is the place of the newest pair."""
    memory = histories[0].param_diffs.shape[0]
    order = (newest - jnp.arange(memory, dtype=newest.dtype)) % memory

    # Every factor ends in a division or a root, because what costs little the compiler
    # repeats for each parameter, and the sums over all parameters with it.
    def to_older(vectors: Arrays, place: Int[Array, ""]) -> Any:
        shares = [_older_products(h.at(place), x) for h, x in zip(histories, vectors)]
        curvature, square, along = total(shares)
        # Curvature is that of the parameters which take part now. There is none in a
        # place that is not yet filled, and no use in a pair where it is negative.
        curvature = jnp.where(curvature > 0, curvature, jnp.inf)
        alpha = along / curvature
        vectors = [
            _plus(x, -alpha, h.at(place).grad) for h, x in zip(histories, vectors)
        ]
        return vectors, (along, curvature, square)

    def to_newer(vectors: Arrays, at: Any) -> Any:
        place, along, curvature = at
        back = inner_products([h.at(place).grad for h in histories], vectors)
        return [
            _plus(x, (along - back) / curvature, h.at(place).param)
            for h, x in zip(histories, vectors)
        ], None

    size = sqrt(inner_products(grads, grads))
    first = 1 / jnp.maximum(1, size) if scale_identity else jnp.ones_like(size)
    vectors, (along, curvature, square) = jax.lax.scan(to_older, list(grads), order)
    scale = first
    if scale_identity:
        known = jnp.isfinite(curvature[0]) & (square[0] > 0)
        newest_scale = divide(jnp.where(known, curvature[0], 0), square[0])
        scale = jnp.where(known, newest_scale, first)
    vectors = [times(x, scale) for x in vectors]
    vectors, _ = jax.lax.scan(
        to_newer, vectors, (order, along, curvature), reverse=True
    )
    # It is positive definite, but for rounding.
    downhill = _is_positive(inner_products(vectors, grads))
    return [
        jnp.where(downhill, x, times(grad, first)) for x, grad in zip(vectors, grads)
    ]


@once_per_shape
def _older_products(pair: Change, x: Leaf) -> tuple[Scalar, Scalar, Scalar]:
    s, y = pair
    return inner_product(s, y), inner_product(y, y), inner_product(s, x)


@once_per_shape
def _plus(x: Leaf, factor: Scalar, y: Leaf) -> Leaf:
    return x + factor.astype(real_dtype(x.dtype)) * y


@once_per_shape
def times(x: Leaf, factor: Scalar) -> Leaf:
    return factor.astype(real_dtype(x.dtype)) * x


def is_curved(changes: Sequence[Change]) -> Bool[Array, ""]:
    """Whether the slope increases along the change of the parameters, by more than
    rounding: only then the pair tells of curvature."""
    sy, ss, yy = total([_change_products(change) for change in changes])
    return _is_positive(sy - jnp.finfo(sy.dtype).eps * sqrt(ss) * sqrt(yy))


def _is_positive(x: Scalar) -> Bool[Array, ""]:
    return jnp.sqrt(jnp.maximum(x, 0)) > 0  # with a root, as above


@once_per_shape
def _change_products(change: Change) -> tuple[Scalar, Scalar, Scalar]:
    s, y = change
    return inner_product(s, y), inner_product(s, s), inner_product(y, y)


@once_per_shape
def remembered(
    history: History, change: Change, place: Int[Array, ""], store: Bool[Array, ""]
) -> History:
    """With the change at `place` of the ring, if it is to be stored."""
    s, y = history.param_diffs, history.grad_diffs
    return history._replace(
        param_diffs=s.at[place].set(jnp.where(store, change.param, s[place])),
        grad_diffs=y.at[place].set(jnp.where(store, change.grad, y[place])),
    )
