"""Parameters that one call of a rule treats: one alone, or small ones of one shape."""

import functools
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jax.core import Tracer
from jaxtyping import Array, PyTree, Shaped, UInt

from .._compile.opaque import opaque_indices
from .._sharding import varying
from .._tree import array_leaves, is_nothing, Parameters
from .._types import AnyLeaf, Leaves
from .rules import kept_in, state_numbers, StateMismatch, unfit, unseen
from .states import States
from .transform import AbstractTransform, count_of


# The most entries of a parameter whose state is kept in a stack. Updates of AdamW of 20
# arrays, with stacks over without, jax 0.10.2 on CPU, November 2026: 0.68 for 16 × 16,
# 0.94 for 64 × 64, 1.38 for 90 × 90, 2.85 for 256 × 256. The count matters less: 0.84
# for two arrays, 0.42 to 0.68 for four and more. Measured anew by `python -m benchmarks
# stacks`.
LARGEST = 64 * 64


class Rows(NamedTuple):
    """An array with a row for each parameter of a group."""

    array: Shaped[Array, "rows ..."]


class Group(NamedTuple):
    """Parameters that one call of a rule treats, with their rule and their state.

    If their states are in a stack, every array that they have is `Rows`.
    """

    transform: AbstractTransform
    parameters: Parameters
    members: list[int]
    """Which of the parameters."""
    rule: Any
    state: PyTree
    stack: int | None
    """The stack that the states are in, or `None` for a state alone."""
    places: tuple[int, ...]
    """Their rows in the stack, or the place of the state among those alone."""
    indices: tuple[UInt[Array, ""], ...]
    """0, 1, ... as numbers that the compiler cannot know."""

    def of(self, column: Sequence[Any]) -> Any:
        """What `column` has for these parameters."""
        if self.stack is None:
            return column[self.members[0]]
        return Rows(jnp.stack([column[i] for i in self.members]))

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """`function`, of one parameter, for each of these. Arguments other than
        `Rows` are the same for all of them."""
        try:
            if self.stack is None:
                return function(*args)
            leaves, treedef = jtu.tree_flatten(args, is_leaf=_is_rows)
            axes = tuple(0 if _is_rows(x) else None for x in leaves)
            arrays = [x.array if _is_rows(x) else x for x in leaves]
            return jtu.tree_map(Rows, _over_rows(function, treedef, axes, arrays))
        except StateMismatch as error:
            first = self.members[0]
            raise unfit(self.transform, self.parameters, first, str(error)) from None

    def check_shape(self) -> None:
        """Check that the first array of each state has its parameter's shape, for
        transforms whose states are like the parameters."""
        param = self.parameters.arrays[self.members[0]]
        first = next(array_leaves(self.state), param)
        shape = first.shape if self.stack is None else first.shape[1:]
        if shape != param.shape:
            raise unfit(
                self.transform,
                self.parameters,
                self.members[0],
                f"it has shape {shape}",
            )

    def numbers(self, made: PyTree) -> PyTree:
        """What `call` made of numbers, with a vector for each: a number a parameter."""
        if self.stack is None:
            return jtu.tree_map(lambda x: x[None], made)
        return _arrays(made)

    def joined(self, made: PyTree) -> PyTree:
        """What `call` made, with the first two axes as one: for each parameter its own
        first axis."""
        if self.stack is None:
            return made
        return jtu.tree_map(lambda x: x.reshape(-1, *x.shape[2:]), _arrays(made))

    def split(self, joined: PyTree) -> PyTree:
        """The opposite of `joined`."""
        if self.stack is None:
            return joined
        n = len(self.members)
        return jtu.tree_map(lambda x: Rows(x.reshape(n, -1, *x.shape[1:])), joined)

    def part(self, made: Any, into: list[Any]) -> None:
        """Put the array that `call` made for each parameter at its place in `into`."""
        if self.stack is None:
            into[self.members[0]] = made
            return
        # A stack of one has no indices of its own: that group may be the longest.
        for i, k in zip(self.members, self.indices or (0,)):
            into[i] = jax.lax.dynamic_index_in_dim(made.array, k, keepdims=False)


def first_states(
    parameters: Parameters,
    states: Sequence[PyTree],
    every_rule: Sequence[Any] | None = None,
) -> PyTree:
    """The states before the first update, as an optimizer keeps them."""
    every_rule = every_rule or [None] * len(states)
    return kept_in(parameters, states, _stacks(parameters, states, every_rule))


def _stacks(
    parameters: Parameters, states: Sequence[PyTree], every_rule: Sequence[Any]
) -> list[list[int]]:
    """Which parameters share a stack: small ones, alike in all that a rule sees."""
    if not parameters.in_stacks:
        return []
    structure_of = _structures()
    alike: dict[Hashable, list[int]] = {}
    for i, (param, state) in enumerate(zip(parameters.arrays, states)):
        if state is not None and 0 < param.size <= LARGEST:
            arrays, record = jtu.tree_flatten(state)
            kinds = tuple((x.shape, x.dtype, x.weak_type) for x in arrays)
            rule = structure_of(every_rule[i])
            key = rule, record, kinds, _kind(param), _sharding(param)
            alike.setdefault(key, []).append(i)
    return [members for members in alike.values() if len(members) > 1]


def groups(
    transform: AbstractTransform,
    parameters: Parameters,
    grads: Sequence[AnyLeaf | None],
    every_rule: Sequence[Any] | None = None,
) -> list[Group]:
    """The parameters that have a gradient, in groups of equal kind."""
    every_rule = every_rule or [None] * len(grads)
    kept = transform.kept
    numbers = state_numbers(transform, parameters)
    structure_of = _structures()
    alike: dict[Hashable, list[int]] = {}
    for i, (grad, number) in enumerate(zip(grads, numbers)):
        if grad is None:
            continue
        if number is None:
            raise unseen(transform, parameters, i)
        stack, _ = _place(kept, number)
        key: Hashable = i
        if stack is not None:
            rule = structure_of(every_rule[i])
            key = stack, rule, _kind(parameters.arrays[i]), _kind(grad)
        alike.setdefault(key, []).append(i)
    longest = max(map(len, alike.values()), default=0)
    several = opaque_indices(range(longest), count_of(transform)) if longest > 1 else ()
    result = []
    for members in alike.values():
        places = [_place(kept, numbers[i]) for i in members]
        stack, rows = places[0][0], tuple(row for _, row in places)
        if is_nothing(kept):
            state = ()
        elif stack is None:
            state = kept.alone[rows[0]]
        else:
            state = jtu.tree_map(Rows, _rows_of(kept, stack, rows))
        rule = _rule_of_all([every_rule[i] for i in members])
        result.append(
            Group(transform, parameters, members, rule, state, stack, rows, several)
        )
    return result


def where_updated(grads: Leaves, updates: Leaves) -> Leaves:
    """The gradients of the parameters that another transform has updated."""
    return [None if update is None else grad for grad, update in zip(grads, updates)]


def kept_after(
    transform: AbstractTransform,
    parameters: Parameters,
    results: Iterable[tuple[Group, PyTree]],
) -> PyTree:
    """The states as an optimizer keeps them, after an update. `results` has the next
    state of each group."""
    kept = transform.kept
    if is_nothing(kept):
        return ()
    alone, stacks = list(kept.alone), list(kept.stacks)
    for group, state in results:
        if group.stack is None:
            alone[group.places[0]] = state
            continue
        new = _arrays(state)
        if not _all_rows(kept, group.stack, group.places):
            rows = jnp.asarray(group.places)
            put = lambda old, x: old.at[rows].set(x)
            new = jtu.tree_map(put, stacks[group.stack], new)
        stacks[group.stack] = new
    new = States(tuple(alone), tuple(stacks), kept.layout)
    return _fitted(new, transform, parameters)


def _fitted(
    kept: States, transform: AbstractTransform, parameters: Parameters
) -> PyTree:
    """`kept` in the containers of the model. Usually it is, but the model may have come
    back in others than `init` saw, or other labels leave `transform` fewer of it."""
    numbers = state_numbers(transform, parameters)
    own = jtu.tree_structure(parameters.tree(numbers))
    order = [number for number in numbers if number is not None]
    if order == list(range(len(kept.layout))) and own == kept.layout.structure:
        return kept
    each = kept.each()
    states = [None if number is None else each[number] for number in numbers]
    stacks: dict[int, list[int]] = {}
    for i, number in enumerate(numbers):
        if number is not None and (stack := _place(kept, number)[0]) is not None:
            stacks.setdefault(stack, []).append(i)
    return kept_in(parameters, states, stacks.values())


def _place(kept: PyTree, number: Any) -> tuple[int | None, int]:
    """The stack and the row of a state, or `None` and its place among those alone."""
    return (None, 0) if is_nothing(kept) else kept.layout.places[number]


def _all_rows(kept: States, stack: int, rows: tuple[int, ...]) -> bool:
    return rows == tuple(range(len(kept.layout.stacks[stack])))


def _rows_of(kept: States, stack: int, rows: tuple[int, ...]) -> PyTree:
    state = kept.stacks[stack]
    if _all_rows(kept, stack, rows):
        return state
    return jtu.tree_map(lambda x: x[jnp.asarray(rows)], state)


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


def _structures() -> Callable[[Any], Hashable]:
    """What is static in a rule, found once for all parameters that share it."""
    known: dict[int, Hashable] = {}

    def structure_of(rule: Any) -> Hashable:
        if id(rule) not in known:
            known[id(rule)] = jtu.tree_structure(rule)
        return known[id(rule)]

    return structure_of


def _kind(x: AnyLeaf) -> Hashable:
    return x.shape, x.dtype, varying(x), getattr(jax.typeof(x), "sharding", None)


def _sharding(x: AnyLeaf) -> Hashable:
    """Where `x` lies, if that is known and matters."""
    if isinstance(x, Tracer) or x.is_fully_replicated:
        return None
    return x.sharding


def _is_rows(x: Any) -> bool:
    return isinstance(x, Rows)


def _arrays(tree: PyTree) -> PyTree:
    return jtu.tree_map(lambda x: x.array, tree, is_leaf=_is_rows)
