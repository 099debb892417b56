"""Matrices of one size in one batch, and what becomes of each."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Float, Inexact, Int, PyTree, Shaped

from .._compile.opaque import opaque_indices
from .._fields import key_names, KeyData
from .._sharding import varying
from .._tree import replace_fields
from .._types import AnyLeaf, Scalar
from .groups import Rows
from .nested import hyperparameter_names
from .optimizer import AbstractOptimizer


R = TypeVar("R", bound=AbstractOptimizer)


@dataclasses.dataclass(frozen=True)
class Batch(Generic[R]):
    """Matrices of one size that are treated together."""

    members: list[int]
    lengths: list[int]
    rule: R
    x: Inexact[Array, "batch _ _"]
    state: PyTree


def batched_by_size(
    every_rule: Sequence[R],
    accumulated: Sequence[tuple[AnyLeaf, PyTree]],
) -> list[Batch[R]]:
    shared = [_without_selection(rule) for rule in every_rule]
    groups: dict[Any, list[int]] = {}
    for i, tree in enumerate(accumulated):
        leaves, treedef = jtu.tree_flatten(tree)
        # In one batch with those that vary over a mesh, all would vary.
        sizes = tuple((x.shape[1:], str(x.dtype), varying(x)) for x in leaves)
        options = jtu.tree_structure(shared[i])
        groups.setdefault((options, treedef, sizes), []).append(i)
    batches = []
    for members in groups.values():
        lengths = [len(accumulated[i][0]) for i in members]
        rule = _rule_of_all([shared[i] for i in members], lengths)
        x, state = jtu.tree_map(_joined, *[accumulated[i] for i in members])
        batches.append(Batch(members, lengths, rule, x, state))
    return batches


def _without_selection(
    rule: R,
) -> R:
    """The rule without the selectors that have done their part: matrices that differ
    in these alone share a batch."""
    done = ["matrices"]
    done += [f.name for f in dataclasses.fields(rule) if f.metadata.get("masks")]
    return replace_fields(rule, **dict.fromkeys(done))


def _rule_of_all(every_rule: Sequence[R], lengths: Sequence[int]) -> R:
    """One rule for a batch: what differs from matrix to matrix is an array with a row
    for each."""
    first = every_rule[0]
    columns: dict[str, Any] = {}
    for name in hyperparameter_names(first):
        scalars = [getattr(rule, name) for rule in every_rule]
        if len({id(x) for x in scalars}) > 1 or isinstance(scalars[0], Rows):
            each = [_column(x, n) for x, n in zip(scalars, lengths)]
            columns[name] = jnp.concatenate(each)
    for name in key_names(first):
        keys = [getattr(rule, name) for rule in every_rule]
        each = [_keys_of_matrices(key, n) for key, n in zip(keys, lengths)]
        columns[name] = jnp.concatenate(each)
    return replace_fields(first, **columns)


def _column(number: Scalar | Rows, length: int) -> Float[Array, "batch 1 1"]:
    """A number of one parameter, or of several, for each of `length` matrices."""
    each = number.array if isinstance(number, Rows) else number[None]
    return jnp.repeat(each, length // len(each))[:, None, None]


def _keys_of_matrices(key: KeyData | Rows, length: int) -> KeyData:
    each = key.array if isinstance(key, Rows) else key[None]
    number = length // len(each)
    if number == 1:
        return each
    split = lambda key: jax.random.split(jax.random.wrap_key_data(key), number)
    return jax.random.key_data(jax.vmap(split)(each)).reshape(length, -1)


def is_none(x: Any) -> bool:
    return x is None


def changed(new: PyTree, old: PyTree) -> PyTree:
    """`new` with `None` in place of each array that it has from `old`."""
    # A compiled call returns copies, of which nobody knows that nothing has changed.
    return jtu.tree_map(lambda a, b: None if a is b else a, new, old)


def merged(old: PyTree, changes: PyTree) -> PyTree:
    """`old` with the changes that `changed` found."""
    return jtu.tree_map(
        lambda a, b: a if b is None else b, old, changes, is_leaf=is_none
    )


def _joined(*parts: Shaped[Array, "_ ..."]) -> Shaped[Array, "_ ..."]:
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts)


def parted(
    made: PyTree, batch: Batch[Any], before: Sequence[PyTree], count: Int[Array, ""]
) -> list[PyTree]:
    """What was made of a batch, for each parameter; `before` is what it was joined
    from."""
    if len(before) == 1:
        return [made]
    starts = [sum(batch.lengths[:i]) for i in range(len(before))]
    places = opaque_indices(starts, count)
    joined = [id(x) for x in jtu.tree_leaves((batch.x, batch.state))]
    parts = [jtu.tree_leaves(tree) for tree in before]
    leaves, treedef = jtu.tree_flatten(made)

    def part(x: Array, k: int) -> Array:
        if id(x) in joined:  # the rule left it alone: no need to cut it out
            return parts[k][joined.index(id(x))]
        return jax.lax.dynamic_slice_in_dim(x, places[k], batch.lengths[k])

    return [treedef.unflatten([part(x, k) for x in leaves]) for k in range(len(parts))]
