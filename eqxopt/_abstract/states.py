"""How the states of a model's parameters are kept: those of small parameters of one
shape in one array, all others as they are."""

import dataclasses
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jax.core import Tracer
from jaxtyping import PyTree

from .._tree import Parameters


@dataclasses.dataclass(frozen=True, eq=False)
class Layout:
    """Where the state of each parameter is kept.

    States are numbered in the order in which the model has their parameters.
    """

    structure: Any
    """The model's shape, with a leaf at each parameter that has a state."""
    alone: tuple[int, ...]
    """The states that are kept as they are."""
    stacks: tuple[tuple[int, ...], ...]
    """The states in each stack, from its first row on."""
    records: tuple[tuple[Any, tuple[int, ...]], ...]
    """What one state in each stack is: its structure, and the ranks of its arrays."""

    # Every call of a compiled function compares layouts, usually one with itself.
    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Layout) and self._content == other._content
        )

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> Any:
        # A structure has functions in it, and does not survive by itself.
        examples = [treedef.unflatten(ranks) for treedef, ranks in self.records]
        return _layout_of, (self.numbers(), self.alone, self.stacks, examples)

    @cached_property
    def _content(self) -> tuple[Any, ...]:
        return self.structure, self.alone, self.stacks, self.records

    @cached_property
    def _hash(self) -> int:
        return hash(self._content)

    @cached_property
    def places(self) -> list[tuple[int | None, int]]:
        """The stack and the row of each state, or `None` and its place among those that
        are alone."""
        places: list[tuple[int | None, int]] = [(None, 0)] * len(self)
        for k, members in [(None, self.alone), *enumerate(self.stacks)]:
            for row, number in enumerate(members):
                places[number] = k, row
        return places

    def __len__(self) -> int:
        return self.structure.num_leaves

    def numbers(self) -> PyTree:
        """A tree of the model's shape with the numbers of the states."""
        return self.structure.unflatten(range(len(self)))


def _layout_of(
    numbers: PyTree,
    alone: tuple[int, ...],
    stacks: tuple[tuple[int, ...], ...],
    examples: Sequence[PyTree],
) -> Layout:
    records = tuple(
        (jtu.tree_structure(x), tuple(jtu.tree_leaves(x))) for x in examples
    )
    return Layout(jtu.tree_structure(numbers), alone, stacks, records)


@jtu.register_dataclass
@dataclasses.dataclass(frozen=True)
class States:
    """The states of a model's parameters, as an optimizer keeps them."""

    # Each is a tuple, but some libraries put a leaf of theirs in place of an empty one.
    alone: PyTree
    stacks: PyTree
    """States whose arrays have a first axis, which counts parameters."""
    layout: Layout = dataclasses.field(metadata={"static": True})

    def tree(self) -> PyTree:
        """A tree of the model's shape with each parameter's state at its place."""
        return self.layout.structure.unflatten(self.each())

    def each(self) -> list[PyTree]:
        """The states in the order of their numbers."""
        return [self._at(*place) for place in self.layout.places]

    def _at(self, stack: int | None, row: int) -> PyTree:
        if stack is None:
            return self.alone[row]
        treedef, ranks = self.layout.records[stack]
        arrays = treedef.flatten_up_to(self.stacks[stack])
        return treedef.unflatten([_row(x, row, n) for x, n in zip(arrays, ranks)])

    def like(self, tree: PyTree) -> "States":
        """The states in `tree`, of the model's shape, kept as these are."""
        return states_in(self.layout, self.layout.structure.flatten_up_to(tree))


def ids_in_stacks(tree: PyTree) -> set[int]:
    """Those of the arrays in `tree` whose rows are states of parameters."""
    is_states = lambda x: isinstance(x, States)
    every = filter(is_states, jtu.tree_leaves(tree, is_leaf=is_states))
    return {id(x) for kept in every for x in jtu.tree_leaves(kept.stacks)}


def states_in(layout: Layout, states: Sequence[PyTree]) -> States:
    """The states, in the order of their numbers, kept as `layout` says."""
    alone = tuple(states[number] for number in layout.alone)
    stacks = tuple(stacked([states[i] for i in members]) for members in layout.stacks)
    return States(alone, stacks, layout)


def stacked(trees: Sequence[PyTree]) -> PyTree:
    """One tree, whose arrays have those of `trees` as their rows."""
    return jtu.tree_map(lambda *xs: jnp.stack(xs), *trees)


def layout_of(
    parameters: Parameters, states: Sequence[PyTree], stacks: Iterable[Sequence[int]]
) -> tuple[Layout, list[PyTree]]:
    """A layout for the parameters that have a state, and their states in its order.

    `stacks` has the parameters in each stack.
    """
    seen = [None if state is None else i for i, state in enumerate(states)]
    order, structure = jtu.tree_flatten(parameters.tree(seen))
    number = {i: k for k, i in enumerate(order)}
    rows = tuple(tuple(number[i] for i in members) for members in stacks)
    together = {k for members in rows for k in members}
    alone = tuple(k for k in range(len(order)) if k not in together)
    in_order = [states[i] for i in order]
    records = []
    for members in rows:
        arrays, treedef = jtu.tree_flatten(in_order[members[0]])
        records.append((treedef, tuple(x.ndim for x in arrays)))
    return Layout(structure, alone, rows, tuple(records)), in_order


def check_alike(name: str, new: PyTree, old: PyTree) -> None:
    """Check that a state has the structure, shapes and dtypes of the one that the class
    `name` has."""
    named = lambda tree: {
        jtu.keystr(path): x for path, x in jtu.tree_flatten_with_path(tree)[0]
    }
    given, own = named(new), named(old)
    for path in own | given:
        here = f"`{name}.with_state`: `state{path}`"
        if path not in given:
            raise ValueError(f"{here} is missing")
        if path not in own:
            raise ValueError(f"{here} is not in the state of this optimizer")
        x, expected = given[path], own[path]
        if jnp.shape(x) != expected.shape or jnp.result_type(x) != expected.dtype:
            raise ValueError(
                f"{here} must have shape {expected.shape} and dtype {expected.dtype}, "
                f"not {jnp.shape(x)} and {jnp.result_type(x)}"
            )
    if jtu.tree_structure(new) != jtu.tree_structure(old):
        raise ValueError(
            f"`{name}.with_state`: the new state has other containers than `opt.state`"
        )


def _row(x: Any, row: int, rank: int) -> Any:
    """One row of an array, before whose rows a population may have axes of its own."""
    if x is None or isinstance(x, bool | int):  # such as a filter, or axes to map over
        return x
    if not eqx.is_array_like(x) and not isinstance(x, jax.ShapeDtypeStruct):
        raise TypeError(
            f"`state` is made anew whenever it is read, and has no place for {x!r}. "
            "Change what it shows, and give it back: `opt.with_state(equinox.tree_at("
            "where, opt.state, new))`"
        )
    if isinstance(x, jax.Array) and not isinstance(x, Tracer) and x.is_deleted():
        return x
    axis = x.ndim - rank - 1
    if isinstance(x, jax.ShapeDtypeStruct):
        shape = x.shape[:axis] + x.shape[axis + 1 :]
        return jax.ShapeDtypeStruct(shape, x.dtype, weak_type=x.weak_type)
    return x[(slice(None),) * axis + (row,)]
