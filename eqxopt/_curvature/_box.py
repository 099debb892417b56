"""Steps of methods of second order that stay between bounds on the parameters."""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .._compile.once import once_per_shape
from .._dtype import compute_dtype, widen
from .._math import global_norm, no_update, nudged_up, step_to_high, step_to_low
from .._sharding import tied
from .._types import AnyLeaf, RealLeaf, Scalar
from ._pairs import times


class Ends(NamedTuple):
    """The bounds of one parameter: numbers of its dtype, in its compute dtype."""

    low: Float[Array, "..."]
    high: Float[Array, "..."]


Box: TypeAlias = Sequence[Ends | None]
"""The bounds of each parameter, `None` for one that has none."""
Bound: TypeAlias = Float[Array, "..."] | None
Arrays: TypeAlias = Sequence[AnyLeaf]
Some: TypeAlias = list[Bool[Array, "..."] | None]
"""Some entries of each parameter, `None` for all of them."""


def box_of(params: Arrays, lows: Sequence[Bound], highs: Sequence[Bound]) -> Box:
    def ends(param: AnyLeaf, low: Bound, high: Bound) -> Ends | None:
        if low is None and high is None:
            return None
        return Ends(_end(param, low, 1), _end(param, high, -1))

    return [ends(*x) for x in zip(params, lows, highs)]


def _end(param: AnyLeaf, bound: Bound, inward: int) -> Float[Array, "..."]:
    """`bound` in the compute dtype of `param`, rounded `inward`: up or down."""
    dtype = compute_dtype(param.dtype)
    if bound is None:
        return jnp.full((), -inward * jnp.inf, dtype)
    end = inward * rounded_up(inward * bound, param.dtype)
    return tied(end, param) if end.ndim else end


def rounded_up(x: Float[Array, "..."], dtype: jnp.dtype) -> Float[Array, "..."]:
    """The least number of `dtype` that is not below `x`, in the compute dtype."""
    info, own = jnp.finfo(dtype), jnp.finfo(x.dtype)
    if info.bits < own.bits:
        most = float(info.max)
        x = jnp.where(jnp.isinf(x), x, jnp.clip(x, -most, most))
        # A compiler may leave out a cast and the cast back, but not this.
        near = jax.lax.reduce_precision(x, info.nexp, info.nmant)
        next_ = jax.lax.stop_gradient(near).astype(dtype)
        next_ = jnp.nextafter(next_, jnp.full_like(next_, jnp.inf)).astype(x.dtype)
        up = jnp.where(near < x, next_ - jax.lax.stop_gradient(near), 0)
        x = near + up
    return x.astype(compute_dtype(dtype))


def shortened(box: Box, params: Arrays, updates: Arrays) -> list[AnyLeaf]:
    """The updates, shortened to end in the box."""
    return [
        update if ends is None else _shortened(param, update, ends)
        for ends, param, update in zip(box, params, updates)
    ]


@once_per_shape
def _shortened(param: RealLeaf, update: RealLeaf, ends: Ends) -> RealLeaf:
    low, high = ends
    x = widen(param)
    # Also inside the box as a difference: `update` is a product, and a compiler may
    # fuse it with the sum and so round the sum in another way than here.
    step = jnp.clip(x + update, low, high) - x
    step = jnp.where(x + step < low, step_to_low(x, low), step)
    step = jnp.where(x + step > high, step_to_high(x, high), step)
    return jnp.where(step == 0, no_update(step), step)


def reaching(box: Box, params: Arrays, steps: Arrays) -> list[AnyLeaf]:
    """The steps, shortened to end at the bounds: because of rounding a little outside,
    never inside."""
    return [
        step if ends is None else _reaching(param, step, ends)
        for ends, param, step in zip(box, params, steps)
    ]


@once_per_shape
def _reaching(param: RealLeaf, step: RealLeaf, ends: Ends) -> RealLeaf:
    to_low, to_high = _ways(param, ends)
    step = jnp.where(step <= to_low, -nudged_up(-to_low), step)
    return jnp.where(step >= to_high, nudged_up(to_high), step)


def reached(box: Box, params: Arrays, grads: Arrays, steps: Arrays) -> Some:
    """The entries that a step against the gradient takes to a bound."""
    return [
        None if ends is None else _reached(param, grad, step, ends)
        for ends, param, grad, step in zip(box, params, grads, steps)
    ]


@once_per_shape
def _reached(
    param: RealLeaf, grad: RealLeaf, step: RealLeaf, ends: Ends
) -> Bool[Array, "*shape"]:
    to_low, to_high = _ways(param, ends)
    return ((grad > 0) & (step <= to_low)) | ((grad < 0) & (step >= to_high))


def onward(
    box: Box, params: Arrays, directions: Arrays, step_size: Scalar
) -> list[AnyLeaf]:
    """The directions in which parameters still move after a step of this size: 0 where
    they have come to a bound."""
    return [
        way if ends is None else _onward(param, way, step_size, ends)
        for ends, param, way in zip(box, params, directions)
    ]


@once_per_shape
def _onward(
    param: RealLeaf, direction: RealLeaf, step_size: Scalar, ends: Ends
) -> RealLeaf:
    to_low, to_high = _ways(param, ends)
    step = times(direction, step_size)
    at_low = (direction < 0) & (step <= to_low)
    at_high = (direction > 0) & (step >= to_high)
    return jnp.where(at_low | at_high, 0, direction)


def is_outside(box: Box, params: Arrays) -> Bool[Array, ""]:
    """Whether any entry is."""
    each = [
        jnp.any(_outside(x, ends)) for ends, x in zip(box, params) if ends is not None
    ]
    return jnp.any(jnp.stack(each)) if each else jnp.asarray(False)


@once_per_shape
def _outside(param: RealLeaf, ends: Ends) -> Bool[Array, "*shape"]:
    x = widen(param)
    return (x < ends.low) | (x > ends.high)


def projected_norm(box: Box, params: Arrays, grads: Arrays) -> Scalar:
    r"""$\|P(\theta - g) - \theta\|$, which is 0 at a minimum in the box."""
    return global_norm(
        grad if ends is None else _projected(param, grad, ends)
        for ends, param, grad in zip(box, params, grads)
    )


@once_per_shape
def _projected(param: RealLeaf, grad: RealLeaf, ends: Ends) -> RealLeaf:
    return jnp.clip(-grad, *_ways(param, ends))


def _ways(param: RealLeaf, ends: Ends) -> tuple[RealLeaf, RealLeaf]:
    """How far it is to either bound."""
    x = widen(param)
    return ends.low - x, ends.high - x
