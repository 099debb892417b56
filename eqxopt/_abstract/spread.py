"""Optimizers of models that are spread over a mesh: each array keeps its type from one
update to the next."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.tree_util as jtu
from jaxtyping import PyTree

from .._math import sum_of_squares
from .._sharding import is_spread, of_type, on_explicit_axes, tied
from .._tree import Parameters
from .._types import AnyLeaf, Scalar
from .step import as_residuals, Step


T = TypeVar("T")


def settled(transform: T, parameters: Parameters) -> T:
    """`transform`, fresh from its `start`, with its arrays where an update leaves them.

    State that has another shape than its parameter, such as a norm or a count, is made
    of constants. These are the same everywhere, and what an update computes from
    parameters that vary is not. A loop would then refuse the optimizer as its carry.
    """
    if not any(map(is_spread, parameters.arrays)):
        return transform
    # What varies may make more vary in the next update.
    for _ in range(_ROUNDS):
        after = jax.eval_shape(
            lambda transform, arrays: _updated(transform, parameters.exchange(arrays)),
            transform,
            parameters.arrays,
        )
        before, transform = transform, _tied(transform, after, tied)
        if before is transform:
            break
    return transform


_ROUNDS = 8


def placed_like(new: T, old: T, parameters: Parameters) -> T:
    """`new`, the next transform or parameters, with its arrays where those of `old`
    lie: an update may have set some to constants, or joined arrays of two layouts."""
    arrays = parameters.arrays
    if not arrays or not (on_explicit_axes(arrays[0]) or any(map(is_spread, arrays))):
        return new
    return _tied(new, old, of_type)


def _updated(transform: Any, parameters: Parameters) -> Any:
    """The transform after some update, of which only the types matter."""
    grads = parameters.arrays
    if transform.per_example:
        grads = [grad[None] for grad in grads]
    value = _loss(parameters.arrays).astype(float)
    loss = lambda model: _loss(Parameters(model).arrays)
    residuals = lambda model: as_residuals("`residual_fn`", Parameters(model).arrays)
    return transform.advance(Step(parameters, list(grads), value, loss, residuals))[1]


def _loss(arrays: list[AnyLeaf]) -> Scalar:
    return sum_of_squares(arrays)


def _tied(tree: T, likes: PyTree, tie: Callable[[Any, Any], Any]) -> T:
    """`tree` with each array tied to that of `likes`. The object itself if they are."""
    leaves, treedef = jtu.tree_flatten(tree)
    places = jtu.tree_leaves(likes)
    new = [tie(x, place) for x, place in zip(leaves, places, strict=True)]
    changed = any(a is not b for a, b in zip(new, leaves))
    return treedef.unflatten(new) if changed else tree
