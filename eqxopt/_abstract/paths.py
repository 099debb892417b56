"""Transforms by the paths at which a user sees their leaves."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax.tree_util as jtu
from jaxtyping import PyTree

from .._tree import KeyPath, replace_fields
from .nested import is_transform
from .states import States
from .transform import AbstractTransform


T = TypeVar("T", bound=AbstractTransform)
V = TypeVar("V")


def leaves_by_path(tree: PyTree) -> Iterator[tuple[KeyPath, Any]]:
    """The leaves of `tree` with the paths by which a user reads them: those of a state
    are what `state` shows."""
    for path, x in jtu.tree_flatten_with_path(tree, is_leaf=is_transform)[0]:
        if not is_transform(x):
            yield path, x
            continue
        for _, key, value in _shown_fields(x):
            inside = leaves_by_path(value)
            yield from (((*path, key, *rest), leaf) for rest, leaf in inside)


def map_by_path(function: Callable[[KeyPath, Any], Any], tree: V) -> V:
    """`tree` with `function` of the path and the leaf at each of `leaves_by_path`."""

    def mapped(path: KeyPath, x: Any) -> Any:
        if not is_transform(x):
            return function(path, x)
        fields = {}
        for name, key, value in _shown_fields(x):
            inside = lambda rest, leaf, at=(*path, key): function((*at, *rest), leaf)
            new, old = map_by_path(inside, value), getattr(x, name)
            fields[name] = old.like(new) if isinstance(old, States) else new
        return replace_fields(x, **fields)

    return jtu.tree_map_with_path(mapped, tree, is_leaf=is_transform)


def kept_like(new: T, old: T) -> T:
    """`new`, whose states are kept in the form in which `old` keeps its own."""
    if jtu.tree_structure(new) == jtu.tree_structure(old):
        return new
    leaves = {jtu.keystr(path): x for path, x in leaves_by_path(new)}
    return map_by_path(lambda path, _: leaves[jtu.keystr(path)], old)


def _shown_fields(
    transform: AbstractTransform,
) -> list[tuple[str, Any, Any]]:
    """The fields that have leaves, with the keys and values that a user sees: `state`
    stands for `kept`."""
    names = [
        field.name
        for field in dataclasses.fields(transform)
        if field.name in vars(transform) and not field.metadata.get("static")
    ]
    shown = ["state" if name == "kept" else name for name in names]
    return [
        (name, jtu.GetAttrKey(seen), getattr(transform, seen))
        for name, seen in zip(names, shown)
    ]
