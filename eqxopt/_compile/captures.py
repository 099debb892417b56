"""What a function reads: arrays as leaves, and all else by what it is compared by."""

import abc
import dataclasses
import enum
import functools
import os
import sys
import types
from argparse import Namespace
from collections.abc import Callable, Hashable
from typing import Any, Generic, Protocol

import equinox as eqx
import jax
import jax.tree_util as jtu
import numpy as np
from jaxtyping import PyTree

from .._tree import static_key
from .names import home_of, is_installed, Names, names_of, WHOLE
from .watch import MISSING, Watch


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
_LASTING: tuple[type, ...] = (
    type(jax.jit(lambda: None)),
    type(eqx.filter_jit(lambda: None)),
    enum.Enum,
    jax.numpy.ufunc,
    np.dtype,
    np.ufunc,
)
# They read what has no name in the code.
_DYNAMIC = frozenset(
    "getattr setattr delattr vars globals locals eval exec open input next".split()
)
_DYNAMIC_ATTRIBUTES = frozenset("__getattribute__ __globals__ import_module".split())
# Where modules keep what changes.
_CHANGING = {os: {"environ", "getenv"}, sys: {"modules"}}


class Capture:
    """Finds what one function reads, itself or through the functions that it reads."""

    def __init__(self, known: frozenset[str], filled: bool = False):
        self._known = known
        self._filled = filled
        self.attributes: set[str] = set()
        """The attributes that the functions read, of whatever object."""
        self.classes: dict[Any, Any] = {}
        """What the methods of the classes of captured trees read."""
        self.watch = Watch()
        # Whether objects are copied, and whether functions set attributes of objects.
        self.copies = self.sets = False
        # Whether functions change lists and dictionaries in place.
        self.fills = False
        # `None` marks an object whose capture has begun and not ended.
        self._done: dict[int, Any] = {}
        self._cyclic: set[int] = set()

    def tree(self, tree: PyTree) -> PyTree:
        """`tree` with everything but arrays as `Static`. A tree without arrays is one
        `Static`."""
        whole = (functools.partial, *_LASTING)
        leaves, treedef = jtu.tree_flatten(tree, lambda x: isinstance(x, whole))
        captured = [self.leaf(x) for x in leaves]
        if not jtu.treedef_is_leaf(treedef):
            self.nodes(tree)
            self.watch.tree(tree)
        held = _containers(tree) if self._filled else ()
        if all(isinstance(x, Static) for x in captured):
            # Return the original object, not a copy: the function may mutate it, for
            # example to count calls.
            return Static(tree, (treedef, tuple(captured), held))
        if held:  # it would be a copy that the function changes
            raise Unknown
        return treedef.unflatten(captured)

    def fixed(self, tree: PyTree) -> "Static":
        """The same where an array cannot be an argument. Those of JAX never change."""
        captured = self.tree(tree)
        if isinstance(captured, Static):
            return captured
        leaves, treedef = jtu.tree_flatten(captured)
        if not all(isinstance(x, Static | jax.Array) for x in leaves):
            raise Unknown
        keys = (x if isinstance(x, Static) else id(x) for x in leaves)
        return Static(tree, (treedef, tuple(keys)))

    def leaf(self, x: Any) -> Any:
        if isinstance(x, np.generic) and not isinstance(x, np.inexact):
            return Static(x, (type(x), x.item()))  # perhaps a length or an axis
        if eqx.is_array(x) and x.dtype != object:
            return x
        if isinstance(x, types.FunctionType):
            if x.__closure__ is None and is_installed(x.__globals__):
                return Static(x, id(x))
            return self._once(x, self._function)
        if isinstance(x, functools.partial):
            return self._once(x, self._partial)
        if isinstance(x, types.MethodType):
            return self._once(x, self._method)
        if isinstance(x, type):
            return self._once(x, self._class)
        if isinstance(x, types.ModuleType):
            return self._once(x, self._module)
        if isinstance(x, jax.custom_jvp | jax.custom_vjp):
            return self._once(x, self._rules)
        if isinstance(x, bool | int | float | complex | str | bytes):
            return Static(x, static_key([x]))
        if isinstance(x, _LASTING) or _is_stateless(x):
            return Static(x, id(x))
        return self._once(x, self._instance)

    def nodes(self, tree: PyTree) -> None:
        """What the methods, the static fields and the functions in `tree` read."""
        remaining = [tree]
        while remaining:
            x = remaining.pop()
            if eqx.is_array(x) or isinstance(x, bool | int | float | str):
                continue
            if isinstance(x, eqx.Module):
                children = []
                for field in dataclasses.fields(x):
                    value = getattr(x, field.name, None)
                    if not field.metadata.get("static", False):
                        children.append(value)
                    elif value is not None:
                        self.classes[type(x), field.name, id(x)] = self.fixed(value)
            else:
                known = jtu.default_registry.flatten_one_level(x)
                children = None if known is None else list(known[0])
            if children is None:
                self.classes[type(x), id(x)] = self.fixed(x)
            else:
                self.classes[type(x)] = self.leaf(type(x))
                remaining += children

    def _once(self, x: Any, capture: Callable[..., Any]) -> Any:
        if id(x) not in self._done:
            self._done[id(x)] = None
            try:
                self._done[id(x)] = capture(x)
            except Unknown:
                del self._done[id(x)]
                raise
            if id(x) in self._cyclic and not isinstance(self._done[id(x)], Static):
                raise Unknown  # it calls itself, with the arrays of its time
        if self._done[id(x)] is None:
            self._cyclic.add(id(x))
            return Static(x, id(x))
        return self._done[id(x)]

    def _function(self, function: types.FunctionType) -> Any:
        code, home = function.__code__, function.__globals__
        names = names_of(code)
        if names.assigned_globals:
            raise Unknown
        contents = self._contents if is_installed(home) else self.tree
        cells = [
            # The function assigns to this cell: keep the cell itself, shared with
            # whoever else reads it.
            Static(cell, "assigned")
            if name in names.assigned_free
            else contents(self.watch.cell(cell))
            for name, cell in zip(code.co_freevars, function.__closure__ or ())
        ]
        globals_ = {}
        if not is_installed(home):
            if names.imports_user_code or (names.globals_ & _DYNAMIC) - home.keys():
                raise Unknown
            read = {k: self.watch.entry(home, k) for k in names.globals_}
            if _reads_unseen(names, read):
                raise Unknown
            self.attributes |= names.attributes
            self.sets |= names.sets
            self.fills |= names.fills
            globals_ = {k: self.tree(x) for k, x in read.items() if x is not MISSING}
        self.watch.attribute(function, "__code__")
        defaults = self.tree(self.watch.attribute(function, "__defaults__"))
        keyword_defaults = self.tree(self.watch.attribute(function, "__kwdefaults__"))
        # Rebuild it from the code object: the original closure would keep the old
        # arrays alive.
        make = Static(functools.partial(_function, code, home), (code, id(home)))
        return _joined(function, make, (cells, globals_, defaults, keyword_defaults))

    def _partial(self, partial: functools.partial[Any]) -> Any:
        inner = self.leaf(partial.func)
        args, keywords = self.tree(partial.args), self.tree(partial.keywords)
        return _joined(partial, Static(_partial, "partial"), (inner, args, keywords))

    def _method(self, method: types.MethodType) -> Any:
        parts = self.leaf(method.__func__), self.tree(method.__self__)
        return _joined(method, Static(types.MethodType, "method"), parts)

    def _contents(self, x: Any) -> Any:
        """What a function of an installed package holds, such as a decorator's own
        settings beside the function that it decorates."""
        try:
            return self.tree(x)
        except Unknown:
            if is_installed(home_of(type(x))):
                return Static(x, id(x))
            raise

    def _module(self, module: types.ModuleType) -> "Static":
        if is_installed(vars(module)):
            return Static(module, id(module))
        if "__dict__" in self._known:
            raise Unknown
        names = sorted((self._known | {"__getattr__"}) & vars(module).keys())
        read = [(name, self.watch.entry(vars(module), name)) for name in names]
        return self._read(module, read)

    def _class(self, cls: type) -> "Static":
        own = [c for c in cls.__mro__ if not is_installed(home_of(c))]
        read = [
            (name, _behind(self.watch.entry(vars(c), name)))
            for c in own
            for name in sorted(self._known | _special(c))
        ]
        return self._read(cls, read)

    def _instance(self, x: Any) -> Any:
        """An object of a class of the user: what its methods read, and those of its
        attributes that any function reads. If there are arrays among these, they are
        arguments, and the function is given a copy of the object."""
        cls = type(x)
        plain = all(
            c in _PLAIN or not is_installed(home_of(c)) and not _answers(c)
            for c in cls.__mro__
        )
        if not plain or any(vars(c).get("__slots__") for c in cls.__mro__):
            raise Unknown
        names = self._known
        if names & WHOLE or "__eq__" in names and dataclasses.is_dataclass(cls):
            self.watch.tree(vars(x))
            names = names | vars(x).keys()
        read = {k: self.watch.entry(vars(x), k) for k in sorted(names)}
        state = {k: self.tree(y) for k, y in read.items() if y is not MISSING}
        if not all(isinstance(y, Static) for y in state.values()):
            self.copies = True
            make = functools.partial(_with_attributes, x)
            return Closure(Static(make, (id(x), self.leaf(cls))), (state,))
        return Static(x, (id(x), self.leaf(cls), tuple(state.items())))

    def _read(self, x: Any, attributes: list[tuple[str, Any]]) -> "Static":
        """`x` with those of its attributes that any function reads, or Python itself
        calls."""
        present = [(name, y) for name, y in attributes if y is not MISSING]
        fixed = [(name, self.fixed(y)) for name, y in present]
        return Static(x, (id(x), tuple(fixed)))

    def _rules(self, function: Any) -> "Static":
        """A function with a derivative of its own."""
        parts = [
            x for x in vars(function).values() if isinstance(x, types.FunctionType)
        ]
        return Static(function, (id(function), tuple(map(self.fixed, parts))))


def _reads_unseen(names: Names, read: dict[str, Any]) -> bool:
    """Whether code with these names, which stand for `read`, reads what may change and
    has no name in it."""
    if names.attributes & _DYNAMIC_ATTRIBUTES:
        return True
    for module, changing in _CHANGING.items():
        held = [vars(module)[name] for name in changing]
        for x in read.values():
            whole = x is module and names.attributes & changing
            if whole or any(x is y for y in held):
                return True
    return False


def _containers(tree: PyTree) -> tuple[int, ...]:
    """The identities of the lists and dictionaries in `tree`."""
    found: list[int] = []

    def note(x: Any) -> bool:
        if isinstance(x, list | dict):
            found.append(id(x))
        return False

    jtu.tree_leaves(tree, is_leaf=note)
    return tuple(found)


# Classes of Python whose objects are what is in their attributes.
_PLAIN = (*Namespace.__mro__, types.SimpleNamespace, abc.ABC, Generic, Protocol)


def _answers(cls: type) -> bool:
    """Whether it makes attributes up when they are read."""
    return not {"__getattr__", "__getattribute__"}.isdisjoint(vars(cls))


def _is_stateless(x: Any) -> bool:
    """Whether this is a function of Python or of an extension, and no method."""
    owner = getattr(x, "__self__", None)
    builtin = isinstance(x, types.BuiltinFunctionType)
    return builtin and (owner is None or isinstance(owner, types.ModuleType))


def _behind(member: Any) -> Any:
    """The functions behind a member of a class; `None` for what holds a field."""
    if isinstance(member, classmethod | staticmethod):
        return member.__func__
    if isinstance(member, property):
        return tuple(x for x in (member.fget, member.fset) if x is not None)
    if isinstance(member, functools.cached_property):
        return member.func
    if isinstance(member, types.MemberDescriptorType | types.GetSetDescriptorType):
        return None
    return getattr(member, "method", member)  # Equinox wraps methods


def _special(cls: type) -> set[str]:
    """The methods that Python calls by itself. Those that `dataclasses` writes read
    nothing that changes."""
    return {
        name
        for name, x in vars(cls).items()
        if name.startswith("__")
        and name != "__repr__"
        and isinstance(_behind(x), types.FunctionType)
        and _behind(x).__code__.co_filename != "<string>"
    }


def _with_attributes(x: Any, attributes: dict[str, Any]) -> Any:
    new = object.__new__(type(x))
    vars(new).update(vars(x) | attributes)
    return new


def _joined(function: Any, make: Static, reads: PyTree) -> Any:
    """The function as a pytree, or as `Static` if there are no arrays in it."""
    leaves, treedef = jtu.tree_flatten(reads)
    if all(isinstance(x, Static) for x in leaves):
        return Static(function, (make, treedef, tuple(leaves)))
    return Closure(make, reads)
