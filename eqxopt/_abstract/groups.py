"""Parameters that one call of a rule treats: one alone, or small ones of one shape."""

import functools
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jax.core import Tracer
from jaxtyping import Array, Int, PyTree, Shaped

from .._compile.opaque import opaque_indices
from .._sharding import varying
from .._tree import is_nothing, Parameters
from .._types import AnyLeaf
from .rules import kept_in, state_numbers, unseen
from .states import States
from .transform import AbstractTransform


# The most entries of a parameter whose state is kept in a stack. See `stacks`.
_LARGEST = 64 * 64


class Rows(NamedTuple):
    """An array with a row for each parameter of a group."""

    array: Shaped[Array, "rows ..."]


def _is_rows(x: Any) -> bool:
    return isinstance(x, Rows)


class Group(NamedTuple):
    """Parameters that one call of a rule treats, and their rule and state.

    With several of them every array is `Rows`.
    """

    members: list[int]
    rule: Any
    state: PyTree
    place: "_Place"

    def of(self, column: Sequence[Any]) -> Any:
        """What `column` has for these parameters."""
        if self.place.stack is None:
            return column[self.members[0]]
        return Rows(jnp.stack([column[i] for i in self.members]))

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """`function`, of one parameter, for each of these. Arguments that are no `Rows`
        are the same for all of them."""
        if self.place.stack is None:
            return function(*args)
        leaves, treedef = jtu.tree_flatten(args, is_leaf=_is_rows)
        axes = tuple(0 if _is_rows(x) else None for x in leaves)
        arrays = [x.array if _is_rows(x) else x for x in leaves]
        return jtu.tree_map(Rows, _over_rows(function, treedef, axes, arrays))

    def values(self, made: Any) -> Any:
        """What `call` made, with an array of rows for each number a parameter."""
        if self.place.stack is None:
            return jtu.tree_map(lambda x: x[None], made)
        return jtu.tree_map(lambda x: x.array, made, is_leaf=_is_rows)

    def part(self, values: Any, into: list[Any], count: Int[Array, ""]) -> None:
        """Put what `call` made for each parameter at its place in the list `into`."""
        if self.place.stack is None:
            into[self.members[0]] = values
            return
        places = opaque_indices(range(len(self.members)), count)
        for i, place in zip(self.members, places):
            into[i] = jax.lax.dynamic_index_in_dim(values.array, place, keepdims=False)


class _Place(NamedTuple):
    """Where the state of a group is kept: in some rows of a stack, or alone."""

    stack: int | None
    rows: tuple[int, ...]
    """The rows, or the number of the state that is alone."""
    all_rows: bool


def first_states(
    parameters: Parameters, every_rule: Sequence[Any], states: Sequence[PyTree]
) -> Any:
    """The states before the first update, as an optimizer keeps them."""
    return kept_in(parameters, states, _stacks(parameters, every_rule, states))


def _stacks(
    parameters: Parameters, every_rule: Sequence[Any], states: Sequence[PyTree]
) -> list[list[int]]:
    """Which parameters share a stack."""
    if not parameters.in_stacks:
        return []
    structures = _Structures()
    alike: dict[Hashable, list[int]] = {}
    for i, (param, state) in enumerate(zip(parameters.arrays, states)):
        if state is None or not 0 < param.size <= _LARGEST:
            continue
        arrays, treedef = jtu.tree_flatten(state)
        kinds = tuple((x.shape, x.dtype, x.weak_type) for x in arrays)
        rule = structures.of(every_rule[i])
        key = rule, treedef, kinds, _kind(param), _sharding(param)
        alike.setdefault(key, []).append(i)
    return [members for members in alike.values() if len(members) > 1]


def _kind(x: AnyLeaf) -> Hashable:
    return x.shape, x.dtype, varying(x), getattr(jax.typeof(x), "sharding", None)


def _sharding(x: AnyLeaf) -> Hashable:
    """Where `x` lies, if that is known and matters."""
    if isinstance(x, Tracer) or x.is_fully_replicated:
        return None
    return x.sharding


def groups(
    transform: AbstractTransform,
    parameters: Parameters,
    every_rule: Sequence[Any],
    grads: Sequence[AnyLeaf | None],
) -> list[Group]:
    """The parameters that have a gradient, in groups of equal kind."""
    kept = transform.kept
    numbers = state_numbers(transform, parameters)
    structures = _Structures()
    alike: dict[Hashable, list[int]] = {}
    for i, (grad, number) in enumerate(zip(grads, numbers)):
        if grad is None:
            continue
        if number is None:
            raise unseen(transform, parameters, i)
        place = kept.layout.places.get(number) if isinstance(kept, States) else None
        if place is None:
            alike[i] = [i]
        else:
            rule = structures.of(every_rule[i])
            key = place[0], rule, _kind(parameters.arrays[i]), _kind(grad)
            alike.setdefault(key, []).append(i)
    return [
        _group(kept, [numbers[i] for i in members], members, every_rule)
        for members in alike.values()
    ]


def _group(
    kept: Any, numbers: list[Any], members: list[int], every_rule: Sequence[Any]
) -> Group:
    first = every_rule[members[0]]
    if is_nothing(kept):
        return Group(members, first, (), _Place(None, (), False))
    stack = kept.layout.places.get(numbers[0], (None,))[0]
    if stack is None:
        return Group(
            members, first, kept.at(numbers[0]), _Place(None, (*numbers,), False)
        )
    rows = tuple(kept.layout.places[number][1] for number in numbers)
    place = _Place(stack, rows, rows == tuple(range(len(kept.layout.stacks[stack]))))
    state = kept.stacks[stack]
    if not place.all_rows:
        state = jtu.tree_map(lambda x: x[jnp.asarray(rows)], state)
    rule = _rule_of_all([every_rule[i] for i in members])
    return Group(members, rule, jtu.tree_map(Rows, state), place)


def kept_after(
    transform: AbstractTransform,
    parameters: Parameters,
    results: Iterable[tuple[Group, PyTree]],
) -> Any:
    """The states as they are kept after an update, of which `results` has the next
    state of each group."""
    kept = transform.kept
    if is_nothing(kept):
        return ()
    alone, stacks = dict(zip(kept.layout.alone, kept.alone)), list(kept.stacks)
    for group, state in results:
        stack, rows, all_rows = group.place
        if stack is None:
            alone[rows[0]] = state
            continue
        new = jtu.tree_map(lambda x: x.array, state, is_leaf=_is_rows)
        if not all_rows:
            put = lambda old, x: old.at[jnp.asarray(rows)].set(x)
            new = jtu.tree_map(put, stacks[stack], new)
        stacks[stack] = new
    new = States(tuple(alone.values()), tuple(stacks), kept.layout)
    return _fitted(new, transform, parameters)


def _fitted(kept: States, transform: AbstractTransform, parameters: Parameters) -> Any:
    """`kept` in the containers of the model. Usually it is, but the model may have come
    back in others than `init` saw, or without some parameters."""
    numbers = state_numbers(transform, parameters)
    own = jtu.tree_structure(parameters.tree(numbers))
    order = [number for number in numbers if number is not None]
    if order == list(range(len(kept.layout))) and own == kept.layout.structure:
        return kept
    states = [None if number is None else kept.at(number) for number in numbers]
    stacks: dict[int, list[int]] = {}
    for i, number in enumerate(numbers):
        if number in kept.layout.places:
            stacks.setdefault(kept.layout.places[number][0], []).append(i)
    return kept_in(parameters, states, stacks.values())


class _Structures:
    """What is static in rules, found once for all parameters that share a rule."""

    def __init__(self) -> None:
        self._known: dict[int, Hashable] = {}

    def of(self, rule: Any) -> Hashable:
        if id(rule) not in self._known:
            self._known[id(rule)] = jtu.tree_structure(rule)
        return self._known[id(rule)]


def _rule_of_all(every_rule: Sequence[Any]) -> Any:
    """One rule for a group: a number that differs from parameter to parameter is
    `Rows`."""
    if len({id(rule) for rule in every_rule}) == 1:
        return every_rule[0]
    columns = zip(*map(jtu.tree_leaves, every_rule))
    one = [
        xs[0] if len({id(x) for x in xs}) == 1 else Rows(jnp.stack(xs))
        for xs in columns
    ]
    return jtu.tree_structure(every_rule[0]).unflatten(one)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _over_rows(
    function: Callable[..., Any],
    treedef: Any,
    axes: tuple[int | None, ...],
    arrays: list[Array],
) -> Any:
    one = lambda *leaves: function(*treedef.unflatten(leaves))
    return jax.vmap(one, in_axes=axes)(*arrays)
