"""What a function reads: arrays as leaves, and all else by what it is compared by."""

import dataclasses
import enum
import functools
import types
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.tree_util as jtu
import numpy as np
from jaxtyping import PyTree

from .._tree import static_key
from .captured import (
    Closure,
    function_of,
    joined,
    partial_of,
    Static,
    Unknown,
    with_attributes,
)
from .members import (
    answers,
    behind,
    DYNAMIC,
    is_stateless,
    PLAIN,
    reads_unseen,
    special,
)
from .names import home_of, is_installed, names_of, WHOLE
from .watch import MISSING, Watch


# Objects of these types never change what they mean.
_LASTING: tuple[type, ...] = (
    type(jax.jit(lambda: None)),
    type(eqx.filter_jit(lambda: None)),
    enum.Enum,
    jax.numpy.ufunc,
    np.dtype,
    np.ufunc,
)


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
        if isinstance(x, _LASTING) or is_stateless(x):
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
            if names.imports_user_code or (names.globals_ & DYNAMIC) - home.keys():
                raise Unknown
            read = {k: self.watch.entry(home, k) for k in names.globals_}
            if reads_unseen(names, read):
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
        make = Static(functools.partial(function_of, code, home), (code, id(home)))
        return joined(function, make, (cells, globals_, defaults, keyword_defaults))

    def _partial(self, partial: functools.partial[Any]) -> Any:
        inner = self.leaf(partial.func)
        args, keywords = self.tree(partial.args), self.tree(partial.keywords)
        return joined(partial, Static(partial_of, "partial"), (inner, args, keywords))

    def _method(self, method: types.MethodType) -> Any:
        parts = self.leaf(method.__func__), self.tree(method.__self__)
        return joined(method, Static(types.MethodType, "method"), parts)

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
            (name, behind(self.watch.entry(vars(c), name)))
            for c in own
            for name in sorted(self._known | special(c))
        ]
        return self._read(cls, read)

    def _instance(self, x: Any) -> Any:
        """An object of a class of the user: what its methods read, and those of its
        attributes that any function reads. If there are arrays among these, they are
        arguments, and the function is given a copy of the object."""
        cls = type(x)
        plain = all(
            c in PLAIN or not is_installed(home_of(c)) and not answers(c)
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
            make = functools.partial(with_attributes, x)
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


def _containers(tree: PyTree) -> tuple[int, ...]:
    """The identities of the lists and dictionaries in `tree`."""
    found: list[int] = []

    def note(x: Any) -> bool:
        if isinstance(x, list | dict):
            found.append(id(x))
        return False

    jtu.tree_leaves(tree, is_leaf=note)
    return tuple(found)
