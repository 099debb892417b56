"""The optimizers in a tree, and what their constructors were given."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax.tree_util as jtu
from jaxtyping import PyTree

from .._abstract.nested import is_transform
from .._line_search.abstract import AbstractLineSearch
from .._schedule.abstract import AbstractSchedule
from .._tree import KeyPath


def _is_part(x: object) -> bool:
    return is_transform(x) or isinstance(x, AbstractSchedule | AbstractLineSearch)


def _parts(tree: PyTree, above: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """The optimizers, schedules and line searches in `tree`, also inside each other,
    with their key paths."""
    for path, x in jtu.tree_flatten_with_path(tree, is_leaf=_is_part)[0]:
        if _is_part(x):
            yield (*above, *path), x
            for name, value in _given(x):
                yield from _parts(value, (*above, *path, jtu.GetAttrKey(name)))


def _given(part: Any) -> list[tuple[str, Any]]:
    """The fields that a constructor sets. All others are set by `init` and updates."""
    return [(f.name, getattr(part, f.name)) for f in dataclasses.fields(part) if f.init]


def parts_of(tree: PyTree) -> dict[str, Any]:
    """The optimizers, schedules and line searches in `tree` by their paths."""
    return {jtu.keystr(path): part for path, part in _parts(tree)}


def arguments_of(tree: PyTree) -> Iterator[str]:
    """The paths of all that the constructors of optimizers were given, other than
    optimizers."""
    for path, part in _parts(tree):
        for name, value in _given(part) if is_transform(part) else []:
            at = jtu.keystr((*path, jtu.GetAttrKey(name)))
            inside, _ = jtu.tree_flatten_with_path(value, is_leaf=is_transform)
            if any(is_transform(x) for _, x in inside):
                yield from (
                    at + jtu.keystr(p) for p, x in inside if not is_transform(x)
                )
            else:
                yield at
