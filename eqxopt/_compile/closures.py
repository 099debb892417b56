"""Functions as pytrees: a loss function that is made in every step compiles once.

Without this, an eager step with a new lambda compiles anew each time: seconds in place
of milliseconds. `python -m benchmarks tricks` shows it.
"""

import dis
import functools
import types
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.tree_util as jtu
import numpy as np
from jaxtyping import PyTree


def as_pytree(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` as a pytree, if everything that it reads is known.

    The arrays in its closure, its defaults and the globals of its module are leaves.
    Its code and whatever else it reads are static and compared by value, so a lambda
    that is made in every step is the same function with other arrays.

    A function that reads anything that might change unseen, such as an attribute of an
    object, is returned as it is. It is then compared by its identity.
    """
    try:
        captured = _Capture().leaf(function)
        hash(jtu.tree_structure(captured))
        hash(tuple(x for x in jtu.tree_leaves(captured) if not eqx.is_array(x)))
    except (_Unknown, TypeError, ValueError):  # unhashable; a cell that is still empty
        return function
    if isinstance(captured, _Static):  # there are no arrays in it
        return Closure(_Static(lambda: captured.value, captured), ())
    return captured


class _Unknown(Exception):
    """The function reads something that may change unseen."""


class _Static:
    """A static object, compared by its key."""

    def __init__(self, value: Any, key: Hashable):
        self.value = value
        self.key = key

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Static) and self.key == other.key


class Closure(eqx.Module):
    """A function, and what it reads as leaves."""

    make: _Static = eqx.field(static=True)
    reads: PyTree

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.restored()(*args, **kwargs)

    def restored(self) -> Callable[..., Any]:
        return self.make.value(*_restored(self.reads))


def _restored(tree: PyTree) -> PyTree:
    def restore(x: Any) -> Any:
        if isinstance(x, Closure):
            return x.restored()
        return x.value if isinstance(x, _Static) else x

    return jtu.tree_map(restore, tree, is_leaf=lambda x: isinstance(x, Closure))


def _function(
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


def _partial(
    function: Callable[..., Any], args: tuple[Any, ...], keywords: dict[str, Any]
) -> Callable[..., Any]:
    return functools.partial(function, *args, **keywords)


# Objects of these types never change what they mean.
_LASTING = (
    types.ModuleType,
    types.BuiltinFunctionType,
    type,
    type(jax.jit(lambda: None)),
    jax.custom_jvp,
    jax.custom_vjp,
    jax.numpy.ufunc,
    np.dtype,
    np.ufunc,
)


class _Capture:
    """Finds what one function reads, itself or through the functions that it reads."""

    def __init__(self):
        # `None` marks a function whose capture has begun and not ended.
        self._functions: dict[int, Any] = {}

    def tree(self, tree: PyTree, home: dict[str, Any] | None = None) -> PyTree:
        """`tree` with everything but arrays as `_Static`. A tree without arrays is one
        `_Static`."""
        is_partial = lambda x: isinstance(x, functools.partial)
        leaves, treedef = jtu.tree_flatten(tree, is_leaf=is_partial)
        captured = [self.leaf(x, home) for x in leaves]
        if all(isinstance(x, _Static) for x in captured):
            # Return the original object, not a copy: the function may mutate it, for
            # example to count calls.
            return _Static(tree, (treedef, tuple(captured)))
        return treedef.unflatten(captured)

    def leaf(self, x: Any, home: dict[str, Any] | None = None) -> Any:
        """`x`, which a function of the module with the globals `home` reads."""
        if isinstance(x, np.generic) and not isinstance(x, np.inexact):
            return _Static(x, (type(x), x.item()))  # perhaps a length or an axis
        if eqx.is_array(x) and x.dtype != object:
            return x
        if isinstance(x, types.FunctionType):
            elsewhere = home is not None and x.__globals__ is not home
            if elsewhere and x.__closure__ is None:
                return _Static(x, id(x))
            return self._once(x, self._function)
        if isinstance(x, functools.partial):
            return self._once(x, self._partial, home)
        if isinstance(x, bool | int | str | bytes):
            return _Static(x, (type(x), x))
        if isinstance(x, float | complex):
            return _Static(x, (type(x), repr(x)))  # which tells 0.0 from -0.0
        if isinstance(x, _LASTING):
            return _Static(x, id(x))
        raise _Unknown

    def _once(self, x: Any, capture: Callable[..., Any], *args: Any) -> Any:
        if id(x) not in self._functions:
            self._functions[id(x)] = None
            self._functions[id(x)] = capture(x, *args)
        if self._functions[id(x)] is None:  # it calls itself
            raise _Unknown
        return self._functions[id(x)]

    def _function(self, function: types.FunctionType) -> Any:
        code, home = function.__code__, function.__globals__
        names = _names(code)
        if names.assigned_globals:
            raise _Unknown
        cells = [
            # The function assigns to this cell: keep the cell itself, shared with
            # whoever else reads it.
            _Static(cell, "assigned")
            if name in names.assigned_free
            else self.tree(cell.cell_contents, home)
            for name, cell in zip(code.co_freevars, function.__closure__ or ())
        ]
        globals_ = {k: self.tree(home[k], home) for k in names.globals_ if k in home}
        defaults = self.tree(function.__defaults__, home)
        keyword_defaults = self.tree(function.__kwdefaults__, home)
        # Rebuild it from the code object: the original closure would keep the old
        # arrays alive.
        make = _Static(functools.partial(_function, code, home), (code, id(home)))
        return _joined(function, make, (cells, globals_, defaults, keyword_defaults))

    def _partial(self, partial: functools.partial[Any], home: Any) -> Any:
        inner = self.leaf(partial.func, home)
        args, keywords = self.tree(partial.args), self.tree(partial.keywords)
        return _joined(partial, _Static(_partial, "partial"), (inner, args, keywords))


def _joined(function: Any, make: _Static, reads: PyTree) -> Any:
    """The function as a pytree, or as `_Static` if there are no arrays in it."""
    leaves, treedef = jtu.tree_flatten(reads)
    if all(isinstance(x, _Static) for x in leaves):
        return _Static(function, (make, treedef, tuple(leaves)))
    return Closure(make, reads)


class _Names(NamedTuple):
    """The names by which code, and the functions inside it, read from outside."""

    globals_: frozenset[str]
    assigned_globals: bool
    assigned_free: frozenset[str]


@functools.lru_cache(maxsize=4096)
def _names(code: types.CodeType) -> _Names:
    read, assigned, assigned_globals = set(), set(), False
    for instruction in dis.get_instructions(code):
        match instruction.opname:
            case "LOAD_GLOBAL" | "LOAD_NAME" | "LOAD_FROM_DICT_OR_GLOBALS":
                read.add(instruction.argval)
            case "STORE_GLOBAL" | "DELETE_GLOBAL":
                assigned_globals = True
            case "STORE_DEREF" | "DELETE_DEREF":
                assigned.add(instruction.argval)
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            names = _names(inner)
            read |= names.globals_
            assigned |= names.assigned_free
            assigned_globals |= names.assigned_globals
    free = frozenset(assigned) & frozenset(code.co_freevars)
    return _Names(frozenset(read), assigned_globals, free)
