"""Changes of parameters and gradients, and products over all parameters together."""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool

from .._compile.once import once_per_shape
from .._dtype import real_dtype, widest_real_dtype
from .._math import global_norm, inner_product, sqrt
from .._types import AnyLeaf, Leaf, Scalar


T = TypeVar("T")


class Last(NamedTuple):
    """What every such optimizer keeps of a parameter: its last gradient, and without a
    line search its last value. Without one, those that learn nothing keep neither."""

    grad: Leaf | None
    param: Leaf | None


class Pair(NamedTuple):
    """The change $s$ of one parameter in a step, and the change $y$ of its gradient."""

    s: Leaf
    y: Leaf


def total(terms: Sequence[T]) -> T:
    """The sums over all parameters, in the widest real dtype of the terms."""
    dtype = widest_real_dtype(jtu.tree_leaves(terms))
    return jtu.tree_map(
        lambda *xs: jnp.sum(jnp.stack([x.astype(dtype) for x in xs]), axis=0), *terms
    )


def inner_products(x: Sequence[AnyLeaf], y: Sequence[AnyLeaf]) -> Scalar:
    r"""$\langle x, y \rangle$ over all parameters."""
    return total([inner_product(a, b) for a, b in zip(x, y)])


def has_curvature(pairs: Sequence[Pair]) -> Bool[Array, ""]:
    r"""Whether $\langle s, y \rangle$ over all parameters is positive by more than
    rounding. Only such a pair is of use."""
    sy, ss, yy = total([pair_products(pair) for pair in pairs])
    return is_positive(sy - jnp.finfo(sy.dtype).eps * sqrt(ss) * sqrt(yy))


@once_per_shape
def pair_products(pair: Pair) -> tuple[Scalar, Scalar, Scalar]:
    r"""$\langle s, y \rangle$, $\|s\|^2$ and $\|y\|^2$."""
    s, y = pair
    return inner_product(s, y), inner_product(s, s), inner_product(y, y)


def first_scale(grads: Sequence[AnyLeaf]) -> Scalar:
    r"""$\gamma$ before anything is known of the curvature: $\gamma I$ stands for
    $H$."""
    return 1 / jnp.maximum(1, global_norm(grads))


def is_positive(x: Scalar) -> Bool[Array, ""]:
    return jnp.sqrt(jnp.maximum(x, 0)) > 0  # a root, so that XLA computes `x` once


@once_per_shape
def times(x: Leaf, factor: Scalar) -> Leaf:
    return factor.astype(real_dtype(x.dtype)) * x
