"""What a captured function is: code, which is static, and what it reads, as leaves."""

import functools
import types
from collections.abc import Callable, Hashable
from typing import Any

import equinox as eqx
import jax.tree_util as jtu
from jaxtyping import PyTree


class Unknown(Exception):
    """The function reads something that may change unseen."""


class Static:
    """A static object, compared by its key."""

    def __init__(self, value: Any, key: Hashable):
        self.value = value
        self.key = key

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Static) and self.key == other.key


class Closure(eqx.Module):
    """A function, and what it reads as leaves."""

    make: Static = eqx.field(static=True)
    reads: PyTree

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.restored()(*args, **kwargs)

    def restored(self) -> Any:
        return self.make.value(*_restored(self.reads))


def _restored(tree: PyTree) -> PyTree:
    def restore(x: Any) -> Any:
        if isinstance(x, Closure):
            return x.restored()
        return x.value if isinstance(x, Static) else x

    return jtu.tree_map(restore, tree, is_leaf=lambda x: isinstance(x, Closure))


def function_of(
    code: types.CodeType,
    home: dict[str, Any],
    cells: list[Any],
    names: dict[str, Any],
    defaults: tuple[Any, ...] | None,
    keyword_defaults: dict[str, Any] | None,
) -> types.FunctionType:
    closure = tuple(
        x if isinstance(x, types.CellType) else types.CellType(x) for x in cells
    )
    new = types.FunctionType(code, home | names, code.co_name, defaults, closure)
    new.__kwdefaults__ = keyword_defaults
    return new


def partial_of(
    function: Callable[..., Any], args: tuple[Any, ...], keywords: dict[str, Any]
) -> Callable[..., Any]:
    return functools.partial(function, *args, **keywords)


def with_attributes(x: Any, attributes: dict[str, Any]) -> Any:
    new = object.__new__(type(x))
    vars(new).update(vars(x) | attributes)
    return new


def joined(function: Any, make: Static, reads: PyTree) -> Any:
    """The function as a pytree, or as `Static` if there are no arrays in it."""
    leaves, treedef = jtu.tree_flatten(reads)
    if all(isinstance(x, Static) for x in leaves):
        return Static(function, (make, treedef, tuple(leaves)))
    return Closure(make, reads)
