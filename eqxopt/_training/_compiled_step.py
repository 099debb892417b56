"""A compiled function from a model and an optimizer to the next ones."""

import dataclasses
import operator
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.tree_util as jtu
from jax.core import Tracer
from jaxtyping import Array

from .._abstract.paths import leaves_by_path
from .._compile.closures import watch_of
from .._places import is_on_mesh
from .._tree import jax_array, merged_leaves, static_key, static_leaves
from ._layout import Layout, layout_of
from ._step import Carry


# How many structures of models and optimizers one step keeps programs for.
_KEPT = 32
_NAMES = "model", "opt", "state"


class CompiledStep:
    """`function(carry, args, layout) -> (carry, out)`, compiled.

    Every array of the next carry lies where that of the last one lay: on a mesh that is
    its `layout`, and otherwise `None`.

    Flattening is most of the cost of a step of a small model. So this class does it by
    hand: if the model, the optimizer and the state are those that the last call
    returned, it reuses their leaves. `function` must return a carry of the structure
    that it was given.
    """

    def __init__(self, function: Callable[..., Any], donate: bool):
        self._function = function
        self._donate = donate
        self._programs: dict[Any, _Program] = {}
        self._last: _LastResult | None = None

    def __call__(self, carry: Carry, args: Any) -> tuple[Carry, Any]:
        given = jtu.tree_flatten(args)
        last = self._last
        if last is not None and last.program.is_of_now() and last.is_still(carry):
            arrays, program = last.arrays, last.program
        else:
            leaves, treedef = jtu.tree_flatten(carry)
            if any(isinstance(x, Tracer) for x in leaves):
                return self._function(carry, args, None)
            arrays, program = self._program(carry, leaves, treedef, given[0])
        self._last = None
        try:
            new, out = program.run(arrays, *given)
        except (RuntimeError, ValueError) as error:
            if self._donate:
                _explain(carry, args, error)
            raise
        carry = program.unflatten(new)
        if not any(isinstance(x, Tracer) for x in new[:1]):
            self._last = _LastResult(carry, new, program)
        return carry, out

    def _program(
        self, carry: Carry, leaves: list[Any], treedef: Any, others: list[Any]
    ) -> tuple[list[Array], "_Program"]:
        arrays = [jax_array(x) for x in leaves if eqx.is_array(x)]
        if self._donate and any(map(is_on_mesh, arrays)):
            check_alive(carry)  # a mesh of several devices raises no error, but crashes
        arrays, layout = layout_of(arrays, others)
        static = static_leaves(leaves)
        key = (treedef, static_key(static), layout)
        program = self._programs.pop(key, None)
        if program is None or not program.is_of_now():
            function = self._function
            program = _Program(function, carry, treedef, static, self._donate, layout)
        self._programs[key] = program
        if len(self._programs) > _KEPT:
            del self._programs[next(iter(self._programs))]
        return arrays, program


class _LastResult:
    """What a step returned, with its arrays, for as long as its objects are alive."""

    def __init__(self, carry: Carry, arrays: list[Array], program: "_Program"):
        self.arrays: list[Array] = arrays
        self.program = program
        self._held: list[Any] | None = None
        if program.containers is None:
            return
        try:
            self._refs = [
                None if x is None else weakref.ref(x, self._forget) for x in carry
            ]
        except TypeError:  # a list or a dictionary, which is fast to flatten anyway
            return
        self._held = [_contents(get(carry)) for get in program.containers]

    def is_still(self, carry: Carry) -> bool:
        """Whether these are the same objects, unchanged."""
        if self._held is None or self.program.containers is None:
            return False
        for ref, x in zip(self._refs, carry):
            if (ref is None) != (x is None) or (ref is not None and ref() is not x):
                return False
        return all(
            _same(_contents(get(carry)), held)
            for get, held in zip(self.program.containers, self._held)
        )

    def _forget(self, _: Any) -> None:
        self.arrays = []
        self._held = None


class _Program:
    """The step for one structure of model, optimizer and state."""

    def __init__(
        self,
        function: Callable[..., Any],
        carry: Carry,
        treedef: Any,
        static: tuple[Any, ...],
        donate: bool,
        layout: Layout | None,
    ):
        self.containers = _containers(carry)
        self._watch = watch_of(carry[0])
        self._treedef = treedef
        self._static = static
        self._function = function
        self._layout = layout
        donated = (0,) if donate else ()
        places: Any = (
            {} if layout is None else {"out_shardings": ([*layout.places], None)}
        )
        self._compiled = jax.jit(
            self._run_flat, donate_argnums=donated, static_argnums=(2, 3), **places
        )

    def is_of_now(self) -> bool:
        """Whether the model's methods read what they read when this was made."""
        return self._watch is None or not self._watch.changed()

    def run(self, arrays: list[Array], leaves: list[Any], treedef: Any) -> Any:
        static = None
        if not all(eqx.is_array_like(x) for x in leaves):
            static = tuple(None if eqx.is_array_like(x) else x for x in leaves)
            leaves = [x for x in leaves if eqx.is_array_like(x)]
        if self._layout is not None:
            leaves = self._layout.other_arguments(leaves)
        return self._compiled(arrays, leaves, treedef, static)

    def unflatten(self, arrays: list[Array]) -> Any:
        return self._treedef.unflatten(merged_leaves(self._static, arrays))

    def _run_flat(
        self, arrays: list[Array], leaves: list[Array], treedef: Any, static: Any
    ) -> tuple[list[Array], Any]:
        carry = self.unflatten(arrays)
        leaves = leaves if static is None else merged_leaves(static, leaves)
        new, out = self._function(carry, treedef.unflatten(leaves), self._layout)
        return [x for x in jtu.tree_leaves(new) if eqx.is_array(x)], out


def _containers(tree: Any) -> list[Callable[[Any], Any]] | None:
    """A getter for each list and dictionary in `tree`: what can be changed in place.

    `None` if there is a node of another kind, whose contents cannot be watched.
    """
    getters: list[Callable[[Any], Any]] = []

    def visit(node: Any, path: tuple[Callable[[Any], Any], ...]) -> bool:
        if isinstance(node, list | dict):
            getters.append(lambda tree: _followed(tree, path))
        if isinstance(node, dict):
            children = [(operator.itemgetter(key), x) for key, x in node.items()]
        elif isinstance(node, list | tuple):
            children = [(operator.itemgetter(i), x) for i, x in enumerate(node)]
        elif isinstance(node, eqx.Module):
            names = [f.name for f in dataclasses.fields(node)]
            children = [
                (operator.attrgetter(name), getattr(node, name))
                for name in names
                if hasattr(node, name)
            ]
        elif node is None or isinstance(node, eqx.nn.State):
            children = []
        else:
            return jtu.all_leaves([node])
        return all(visit(child, (*path, get)) for get, child in children)

    return getters if visit(tree, ()) else None


def _followed(tree: Any, path: tuple[Callable[[Any], Any], ...]) -> Any:
    for get in path:
        tree = get(tree)
    return tree


def _contents(container: list[Any] | dict[Any, Any]) -> tuple[Any, ...]:
    if isinstance(container, dict):
        return (*container.keys(), *container.values())
    return tuple(container)


def _same(contents: tuple[Any, ...], held: tuple[Any, ...]) -> bool:
    return len(contents) == len(held) and all(map(operator.is_, contents, held))


def check_alive(carry: Carry, error: Exception | None = None) -> None:
    """Raise an error for an array that was donated to an earlier step."""
    if not any(x.is_deleted() for _, x in _arrays(carry, jtu.tree_leaves_with_path)):
        return
    for where, x in _arrays(carry, leaves_by_path):  # which makes new arrays of others
        if x.is_deleted():
            raise ValueError(
                f"{where} was given away: it was donated to an earlier step, whose "
                "results take its place. Use `model, opt, loss = step(model, opt, "
                "batch)`, or `make_step(..., donate=False)`."
            ) from error


def _explain(carry: Carry, args: Any, error: Exception) -> None:
    """Raise what is wrong with the arrays' memory, if anything is."""
    check_alive(carry, error)
    donated: dict[int, str] = {}
    for where, x in _arrays(carry, jtu.tree_leaves_with_path):
        if id(x) in donated:
            raise ValueError(
                f"{donated[id(x)]} and {where} are one array, which cannot be donated "
                "twice. Copy one of them; tie layers with `equinox.nn.Shared`; or use "
                "`make_step(..., donate=False)`."
            ) from error
        donated[id(x)] = where
    for x in jtu.tree_leaves(args):
        if id(x) in donated:
            raise ValueError(
                f"{donated[id(x)]} is also another argument of the step, which gives "
                "its memory to the next model. Pass a copy, such as `jax.tree.map("
                "jnp.copy, model)`, or use `make_step(..., donate=False)`."
            ) from error


def _arrays(
    carry: Carry, flat: Callable[[Any], Iterable[tuple[Any, Any]]]
) -> Iterator[tuple[str, Array]]:
    for name, part in zip(_NAMES, carry):
        for path, x in flat(part):
            if isinstance(x, jax.Array):
                yield f"`{name}{jtu.keystr(path)}`", x
