"""From a rule for matrices, with a fallback for all other parameters, to an optimizer.

A step goes through three phases: each matrix on its own, those of one size together,
and each on its own again.
"""

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool, Int, PyTree, Shaped

from .._compile.once import once_per_shape
from .._dtype import compute_dtype, real_dtype, widen
from .._fields import Blocks, Matrices, MatrixView, view_of
from .._math import plus_one
from .._sharding import (
    cond,
    each_in_shards,
    each_whole,
    gathered,
    on_auto_axes,
    placed_with,
    tied,
)
from .._tree import fill, Parameters, replace_fields
from .._types import AnyLeaf, Leaf, Leaves, Matrix, Scalar, Self
from .batches import Batch, batched_by_size, changed, is_none, merged, parted
from .groups import first_states, Group, groups, kept_after
from .optimizer import AbstractOptimizer
from .rules import begun, check_state, keyed_rules, rules
from .step import Step
from .transform import count_of


class AbstractRefreshedMatrixOptimizer(AbstractOptimizer):
    """A rule for matrices of which a costly part, such as a decomposition, is made only
    in some steps.

    Most rules need no more than an [`eqxopt.AbstractMatrixOptimizer`][]. A subclass of
    this class also writes `due` and `refresh`. One branch decides for all matrices
    whether anything is refreshed.
    """

    fallback: eqx.AbstractVar[AbstractOptimizer | None]
    """The optimizer of all other parameters; `None` if the rule is for these, too."""
    matrices: eqx.AbstractVar[Any]
    """Which parameters are matrices."""

    @abc.abstractmethod
    def init_matrix(self, param: Leaf, view: MatrixView) -> PyTree:
        """The state of one parameter before the first update.

        An array of the parameter's shape comes to the other methods as matrices, and
        lies where the parameter lies. Every other array has a first axis that counts
        matrices.
        """

    @abc.abstractmethod
    def accumulate(self, t: Scalar, grad: Matrix, state: Any) -> tuple[Matrix, Any]:
        """What is to be preconditioned, and the next state, of one parameter in the
        update number `t`, from 1."""

    @abc.abstractmethod
    def due(self, count: Int[Array, ""], state: Any) -> Bool[Array, "..."] | None:
        """Whether to refresh a batch of states in the update number `count`, from 1:
        one boolean, or one for each matrix, of the shape (batch,) or (batch, 1, 1);
        `None` for never."""

    @abc.abstractmethod
    def refresh(self, t: Scalar, x: Matrix, state: Any) -> Any:
        """The refreshed state of a batch of matrices of one size.

        A matrix that is not due keeps its old state. As in `precondition`,
        hyperparameters may have the shape (batch, 1, 1).
        """

    @abc.abstractmethod
    def precondition(self, t: Scalar, x: Matrix, state: Any) -> tuple[Matrix, Any]:
        """The directions and next states of a batch of matrices of one size.

        Hyperparameters that differ within the batch have the shape (batch, 1, 1). A
        random key has a row for each matrix.
        """

    @abc.abstractmethod
    def step(self, t: Scalar, direction: Leaf, param: Leaf) -> Leaf:
        """The update number `t` of one parameter along its direction."""

    def start(self, parameters: Parameters) -> Self:
        new = begun(self, parameters)
        views = self.views(parameters)
        every_rule = rules(replace_fields(new, fallback=None), parameters)
        states = [
            None if view is None else placed_with(param, rule.init_matrix(param, view))
            for rule, param, view in zip(every_rule, parameters.arrays, views)
        ]
        if self.fallback is not None:
            others = parameters.only([view is None for view in views])
            new = replace_fields(new, fallback=self.fallback.start(others))
        return replace_fields(new, kept=first_states(parameters, states, every_rule))

    def advance(self, step: Step) -> tuple[Leaves, Self]:
        parameters = step.parameters
        count = plus_one(count_of(self))
        views = self.views(parameters)
        updates: Leaves = [None] * len(parameters)
        new = replace_fields(self, count=count)
        if self.fallback is not None:
            other = [view is None for view in views]
            rest, fallback = self.fallback.advance(step.only(other))
            fill(updates, other, rest)
            new = replace_fields(new, fallback=fallback)

        grads: Leaves = [None] * len(parameters)
        for i, (grad, view) in enumerate(zip(step.grads, views)):
            if grad is not None and view is not None:
                if grad.size:
                    grads[i] = grad
                else:  # no maximum, no mean, no eigenvectors
                    updates[i] = grad.astype(compute_dtype(parameters.arrays[i].dtype))
        leaves = [
            _Leaves(group, group.of(parameters.arrays), views[group.members[0]])
            for group in groups(self, parameters, grads, self._rules(parameters))
        ]
        made = on_auto_axes(
            lambda parts: _updated(leaves, *parts),
            ([x.arrays for x in leaves], [x.group.of(grads) for x in leaves], count),
            [(x.param, x.group.state) for x in leaves],
        )
        for x, (update, _) in zip(leaves, made):
            x.group.part(update, updates)
        states = [(x.group, state) for x, (_, state) in zip(leaves, made)]
        return updates, replace_fields(new, kept=kept_after(self, parameters, states))

    def evaluate(self, parameters: Parameters) -> list[AnyLeaf]:
        if self.fallback is None:
            return parameters.arrays
        arrays = list(parameters.arrays)
        other = [view is None for view in self.views(parameters)]
        fill(arrays, other, self.fallback.evaluate(parameters.only(other)))
        return arrays

    def groups(self, parameters: Parameters) -> list[str]:
        """Whether each parameter is a matrix, a stack of them, or what the name of the
        fallback says."""
        other = "vector" if self.fallback is None else type(self.fallback).__name__
        every = self._blocks(parameters)
        return [other if blocks is None else str(blocks) for blocks in every]

    def views(self, parameters: Parameters) -> list[MatrixView | None]:
        """How each parameter is seen as a matrix, `None` where the fallback has it."""
        alone = self.fallback is None
        return [
            view_of(array.shape, blocks) if alone or blocks is not None else None
            for blocks, array in zip(self._blocks(parameters), parameters.arrays)
        ]

    def _blocks(self, parameters: Parameters) -> list[Blocks | None]:
        matrices: Matrices = self.matrices
        return matrices.at(parameters, f"`{type(self).__name__}.matrices`")

    def _rules(self, parameters: Parameters) -> list[Self]:
        # The fallback has its own hyperparameters and is no part of the rule.
        return keyed_rules(replace_fields(self, fallback=None), parameters)


class AbstractMatrixOptimizer(AbstractRefreshedMatrixOptimizer):
    """An optimizer that has a rule for matrices, and leaves all other parameters to
    another optimizer.

    A subclass is its hyperparameters, a field `fallback`, a field `matrices`, and four
    methods: `init_matrix`; `accumulate`, of one parameter; `precondition`, of a batch
    of matrices of one size; and `step`, of one parameter again. In all of them arrays
    come in at least float32, and the hyperparameters of `self` are the scalars of this
    step and this parameter.
    """

    def due(self, count: Int[Array, ""], state: Any) -> None:
        return None

    def refresh(self, t: Scalar, x: Matrix, state: Any) -> Any:
        return state


class _Leaves(NamedTuple):
    """Parameters that are matrices, or stacks of matrices, of one shape."""

    group: Group
    param: Any
    view: MatrixView | None

    @property
    def arrays(self) -> Any:
        return self.group.rule, self.group.state, self.param

    def exchange(self, arrays: Any) -> "_Leaves":
        rule, state, param = arrays
        group = self.group._replace(rule=rule, state=state)
        return self._replace(group=group, param=param)

    def accumulate(self, count: Int[Array, ""], grad: Any) -> tuple[Matrix, PyTree]:
        """What is to be preconditioned, and the next state, as matrices."""
        rule, state = self.group.rule, self.group.state
        return self.group.joined(
            self.group.call(
                _accumulate, rule, count, grad, self.param, state, self.view
            )
        )

    def step(
        self, count: Int[Array, ""], direction: Matrix, state: PyTree
    ) -> tuple[Any, PyTree]:
        """The updates, and the next states as they are kept."""
        direction, state = self.group.split((direction, state))
        rule, kept = self.group.rule, self.group.state
        return self.group.call(
            _step, rule, count, direction, self.param, state, kept, self.view
        )


def _updated(
    leaves: Sequence[_Leaves],
    arrays: Sequence[Any],
    grads: Sequence[Any],
    count: Int[Array, ""],
) -> list[tuple[Any, PyTree]]:
    """The updates and the next states of all matrices, in the three phases."""
    own = [x.exchange(y) for x, y in zip(leaves, arrays)]
    accumulated = [x.accumulate(count, grad) for x, grad in zip(own, grads)]
    made = _in_batches([x.group.rule for x in own], accumulated, count)
    return [x.step(count, *y) for x, y in zip(own, made)]


@once_per_shape
def _accumulate(
    rule: AbstractRefreshedMatrixOptimizer,
    count: Int[Array, ""],
    grad: Leaf,
    param: Leaf,
    state: PyTree,
    view: MatrixView,
) -> tuple[Matrix, PyTree]:
    check_state(lambda param: rule.init_matrix(param, view), param, state)
    dtype = compute_dtype(param.dtype)

    def as_matrices(x: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
        x = widen(x, dtype)
        return view.matrices(gathered(x)) if x.shape == param.shape else x

    grads = as_matrices(grad.astype(dtype))
    state = jtu.tree_map(as_matrices, state)
    x, new = rule.accumulate(_time(count, grads), grads, state)
    _check_structure(rule, "accumulate", new, state)
    return x, new


@once_per_shape
def _step(
    rule: AbstractRefreshedMatrixOptimizer,
    count: Int[Array, ""],
    direction: Matrix,
    param: Leaf,
    state: PyTree,
    kept: PyTree,
    view: MatrixView,
) -> tuple[Leaf, PyTree]:
    def as_kept(x: Shaped[Array, "..."], old: Shaped[Array, "..."]) -> Any:
        x = x.astype(old.dtype)
        return tied(view.array(x), param) if old.shape == param.shape else x

    along = tied(view.array(direction), param)
    wide = param.astype(direction.dtype)
    update = rule.step(_time(count, direction), along, wide)
    return update, jtu.tree_map(as_kept, state, kept)


def _in_batches(
    every_rule: Sequence[AbstractRefreshedMatrixOptimizer],
    accumulated: Sequence[tuple[AnyLeaf, PyTree]],
    count: Int[Array, ""],
) -> list[tuple[AnyLeaf, PyTree]]:
    """The directions and the next states of each group of parameters."""
    batches = batched_by_size(every_rule, accumulated)
    whole = [
        dataclasses.replace(batch, x=each_whole(batch.x), state=_all_whole(batch.state))
        for batch in batches
    ]
    states = _refreshed(whole, count)
    results: list[Any] = [None] * len(accumulated)
    for batch, own, state in zip(batches, whole, states):
        direction, changes = _precondition(batch.rule, count, own.x, state)
        # What no rule has changed need not come back.
        old = batch.state if state is own.state else _all_back(state)
        made = each_in_shards(direction), merged(old, _all_back(changes))
        before = [accumulated[i] for i in batch.members]
        for i, result in zip(batch.members, parted(made, batch, before, count)):
            results[i] = result
    return results


def _all_whole(state: PyTree) -> PyTree:
    return jtu.tree_map(each_whole, state)


def _all_back(state: PyTree) -> PyTree:
    return jtu.tree_map(each_in_shards, state)


def _refreshed(
    batches: Sequence[Batch[AbstractRefreshedMatrixOptimizer]], count: Int[Array, ""]
) -> list[PyTree]:
    """The states of all batches, refreshed where this is due."""
    states = [batch.state for batch in batches]
    dues = [batch.rule.due(count, batch.state) for batch in batches]
    known = [jnp.any(due) for due in dues if due is not None]
    if not known:
        return states

    def refreshed(xs: list[AnyLeaf], states: list[PyTree]) -> list[PyTree]:
        return [
            state
            if due is None
            else merged(state, _refresh(batch.rule, count, x, state, due))
            for batch, x, state, due in zip(batches, xs, states, dues)
        ]

    # One branch for all of them, which in most steps costs nothing.
    some = jnp.any(jnp.stack(known))
    xs = [batch.x for batch in batches]
    return cond(some, refreshed, lambda xs, states: states, xs, states)


@once_per_shape
def _refresh(
    rule: AbstractRefreshedMatrixOptimizer,
    count: Int[Array, ""],
    x: Matrix,
    state: PyTree,
    due: Bool[Array, "..."],
) -> PyTree:
    """What changes in the states of a batch where it is due."""

    def chosen(new: Array, old: Array) -> Array:
        here = due.reshape(-1, *[1] * (old.ndim - 1)) if due.ndim else due
        return jnp.where(here, new, old)

    new = rule.refresh(_time(count, x), x, state)
    _check_structure(rule, "refresh", new, state)
    return jtu.tree_map(
        lambda new, old: None if new is None else chosen(new, old),
        changed(new, state),
        state,
        is_leaf=is_none,
    )


@once_per_shape
def _precondition(
    rule: AbstractRefreshedMatrixOptimizer,
    count: Int[Array, ""],
    x: Matrix,
    state: PyTree,
) -> tuple[Matrix, PyTree]:
    """The directions, and what changes in the states, of a batch."""
    direction, new = rule.precondition(_time(count, x), x, state)
    _check_structure(rule, "precondition", new, state)
    return direction, changed(new, state)


def _check_structure(
    rule: AbstractRefreshedMatrixOptimizer, method: str, new: PyTree, old: PyTree
) -> None:
    expected, got = jtu.tree_structure(old), jtu.tree_structure(new)
    if got != expected:
        raise TypeError(
            f"`{type(rule).__name__}.{method}` must return a state like that of "
            f"`init_matrix`, {expected}, but it returned {got}"
        )


def _time(count: Int[Array, ""], x: Matrix) -> Scalar:
    return count.astype(real_dtype(x.dtype))
