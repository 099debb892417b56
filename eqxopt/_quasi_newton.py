"""Curvature as the last changes of parameters and gradients tell it."""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Bool, Float, Inexact, Int

from ._dtype import compute_dtype, widest_real_dtype
from ._math import divide, inner_product, sqrt
from ._wrapping import own_copy, per_leaf


T = TypeVar("T")


class History(NamedTuple):
    """A parameter's last gradient, and its last changes and those of its gradient, in a
    ring; and, if it is to be compared with the next, its last value."""

    grad: Inexact[Array, "*shape"]
    param_diffs: Inexact[Array, " memory *shape"]
    grad_diffs: Inexact[Array, " memory *shape"]
    param: Inexact[Array, "*shape"] | None


class Products(NamedTuple):
    r"""The inner products of $S$, the changes of all parameters, $Y$, those of their
    gradients, and $g$, the gradients."""

    sy: Float[Array, "memory memory"]
    yy: Float[Array, "memory memory"]
    sg: Float[Array, " memory"]
    yg: Float[Array, " memory"]
    gg: Float[Array, ""]


class Direction(NamedTuple):
    r"""$H g = \gamma g + S a + Y b$, the gradient times the inverse Hessian."""

    scale: Float[Array, ""]
    along_param_diffs: Float[Array, " memory"]
    along_grad_diffs: Float[Array, " memory"]


def empty_history(
    param: Inexact[Array, "*shape"], memory: int, *, keep_param: bool
) -> History:
    dtype = compute_dtype(param.dtype)
    # Computed from the parameter, so that all but the first axis are sharded like it.
    zero = jnp.where(jnp.isnan(param), jnp.zeros((), dtype), jnp.zeros((), dtype))
    diffs = lambda: jnp.stack([zero] * memory)
    return History(zero, diffs(), diffs(), own_copy(param) if keep_param else None)


@per_leaf
def products(history: History, grad: Inexact[Array, "*shape"]) -> Products:
    """One parameter's share of the inner products."""
    s, y = history.param_diffs, history.grad_diffs
    return Products(
        sy=_inner(s, y, grad.ndim),
        yy=_inner(y, y, grad.ndim),
        sg=_inner(s, grad, grad.ndim),
        yg=_inner(y, grad, grad.ndim),
        gg=inner_product(grad, grad),
    )


def _inner(
    x: Inexact[Array, "..."], y: Inexact[Array, "..."], axes: int
) -> Float[Array, "..."]:
    """The inner products over the last `axes`, of complex entries as of pairs of real
    ones."""
    if jnp.iscomplexobj(x):
        return _inner(x.real, y.real, axes) + _inner(x.imag, y.imag, axes)
    last = [tuple(range(z.ndim - axes, z.ndim)) for z in (x, y)]
    sharding = jax.typeof(x).sharding
    if any(axis is not None for axis in sharding.spec):
        whole = jax.sharding.PartitionSpec()
        sharding = jax.sharding.NamedSharding(sharding.mesh, whole)
    else:
        sharding = None
    return jnp.tensordot(
        x, y, last, precision=jax.lax.Precision.HIGHEST, out_sharding=sharding
    )


def sum_of(shares: Sequence[T]) -> T:
    """The sum over all parameters, in the widest dtype among them."""
    dtype = widest_real_dtype(jtu.tree_leaves(shares))
    return jtu.tree_map(
        lambda *xs: jnp.sum(jnp.stack([x.astype(dtype) for x in xs]), axis=0), *shares
    )


def inverse_hessian(
    p: Products, newest: Int[Array, ""], *, scale_identity: bool
) -> Direction:
    """L-BFGS's two loops, as two triangular systems: in the ring, `newest` is the place
    of the newest pair."""
    memory = p.sg.shape[0]
    # From the oldest pair to the newest.
    order = (newest + 1 + jnp.arange(memory, dtype=newest.dtype)) % memory
    sy, yy = p.sy[order][:, order], p.yy[order][:, order]
    curvature = jnp.diagonal(sy)
    # Of the places not yet filled, and of pairs of which too few parameters take part,
    # nothing is used.
    used = (curvature > 0) & (jnp.diagonal(yy) > 0)
    both = used[:, None] & used[None, :]
    upper = jnp.where(both, jnp.triu(sy), jnp.eye(memory, dtype=sy.dtype))
    sg, yg = (jnp.where(used, x[order], 0) for x in (p.sg, p.yg))

    first = 1 / jnp.maximum(1, sqrt(p.gg))
    if scale_identity:
        scale = jnp.where(used[-1], divide(curvature[-1], yy[-1, -1]), first)
    else:
        scale = first = jnp.ones_like(p.gg)
    past = solve_triangular(upper, sg)
    weighed = jnp.where(used, curvature, 0) * past
    weighed += scale * (jnp.where(both, yy, 0) @ past - yg)
    along_s = solve_triangular(upper, weighed, trans=1)
    along_y = -scale * past

    # It is positive definite, but for rounding.
    downhill = scale * p.gg + jnp.vdot(along_s, sg) + jnp.vdot(along_y, yg) > 0
    ring = (jnp.arange(memory, dtype=newest.dtype) - newest - 1) % memory
    return Direction(
        jnp.where(downhill, scale, first),
        jnp.where(downhill, along_s, 0)[ring],
        jnp.where(downhill, along_y, 0)[ring],
    )


@per_leaf
def update_in(
    direction: Direction,
    history: History,
    grad: Inexact[Array, "*shape"],
    rate: Float[Array, ""],
) -> Inexact[Array, "*shape"]:
    r"""$-\alpha H g$ of one parameter."""
    scale, a, b = (x.astype(rate.dtype) for x in direction)
    precision = jax.lax.Precision.HIGHEST
    along_s = jnp.tensordot(a, history.param_diffs, 1, precision=precision)
    along_y = jnp.tensordot(b, history.grad_diffs, 1, precision=precision)
    return -rate * (scale * grad + along_s + along_y)


class Change(NamedTuple):
    """The change of one parameter in a step, and that of its gradient."""

    param: Inexact[Array, "*shape"]
    grad: Inexact[Array, "*shape"]


@per_leaf
def change_products(change: Change) -> Float[Array, "3"]:
    s, y = change
    return jnp.stack([inner_product(s, y), inner_product(s, s), inner_product(y, y)])


def is_curved(products: Float[Array, "3"]) -> Bool[Array, ""]:
    """Whether the slope increases along the change of the parameters, by more than
    rounding: only then the pair tells of curvature."""
    sy, ss, yy = products
    return sy > jnp.finfo(sy.dtype).eps * sqrt(ss) * sqrt(yy)


@per_leaf
def remembered(
    history: History, change: Change, place: Int[Array, ""], store: Bool[Array, ""]
) -> History:
    """With the change at `place` of the ring, if it is to be stored."""
    s, y = history.param_diffs, history.grad_diffs
    return history._replace(
        param_diffs=s.at[place].set(jnp.where(store, change.param, s[place])),
        grad_diffs=y.at[place].set(jnp.where(store, change.grad, y[place])),
    )
