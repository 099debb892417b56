"""From a rule about another optimizer's updates to an optimizer."""

import abc
from typing import Any, ClassVar, TypeVar

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import PyTree

from .._compile.once import once_per_shape
from .._dtype import compute_dtype, real_dtype, widen
from .._math import plus_one
from .._sharding import placed_with
from .._tree import is_nothing, Parameters, replace_fields
from .._types import Amount, AnyLeaf, Leaf, Leaves, Scalar, Self
from .groups import first_states, groups, kept_after, where_updated
from .nested import inner_transforms
from .optimizer import AbstractOptimizer
from .rules import (
    begun,
    check_result,
    check_seen,
    check_state,
    rules,
    state_numbers,
)
from .step import Step
from .transform import AbstractTransform, count_of


W = TypeVar("W", bound="AbstractSharedWrapper")


class AbstractSharedWrapper(AbstractOptimizer):
    """A rule about the updates of another optimizer, which also acts before that one:
    on what it is given, and on numbers that all parameters share.

    Most wrappers need no more than an [`eqxopt.AbstractWrapper`][]. A subclass of this
    class also writes `start_shared`, which sets its own fields, and `lower`, which
    moves them on. `wrap_leaf` then sees the moved ones on `self`.
    """

    optimizer: eqx.AbstractVar[AbstractOptimizer]
    """The optimizer inside."""
    inner_rate: Amount = eqx.field(default=None, init=False)
    """Inside `wrap_leaf`, the learning rate of the optimizer inside, if
    `needs_inner_rate` asks for it."""
    param_dtype: jnp.dtype | None = eqx.field(default=None, init=False, static=True)
    """Inside `wrap_leaf`, the dtype in which the model holds the parameter."""

    needs_inner_rate: ClassVar[str | None] = None
    """What a user can do if the optimizer inside has no learning rate, or several;
    `None` if the rule does not ask for it."""

    @abc.abstractmethod
    def start_shared(self, parameters: Parameters) -> Self:
        """This wrapper with its own fields as they are before the first update."""

    @abc.abstractmethod
    def lower(self, step: Step) -> tuple[Step, Self]:
        """What the optimizer inside is given, and this wrapper with its own fields
        moved on by one update."""

    @abc.abstractmethod
    def init_leaf(self, param: Leaf) -> PyTree:
        """The state of one parameter before the first update."""

    @abc.abstractmethod
    def wrap_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, update: Leaf, state: Any
    ) -> tuple[Leaf, Any]:
        """The update of one parameter in place of `update`, which the optimizer inside
        made of `grad`, and the next state."""

    @abc.abstractmethod
    def eval_leaf(self, param: Leaf, evaluated: Leaf, state: Any) -> Leaf:
        """The parameter to evaluate the model with, where the optimizer inside would
        evaluate it with `evaluated`. A rule without state is not asked: it gives
        `evaluated`."""

    def start(self, parameters: Parameters) -> Self:
        optimizer = self.optimizer.start(parameters)
        new = replace_fields(begun(self, parameters), optimizer=optimizer)
        new = new.start_shared(parameters)
        every_rule = _rules(new, parameters)
        states = [
            placed_with(param, rule.init_leaf(param))
            for rule, param in zip(every_rule, parameters.arrays)
        ]
        return replace_fields(new, kept=first_states(parameters, states, every_rule))

    def advance(self, step: Step) -> tuple[Leaves, Self]:
        parameters = step.parameters
        count = plus_one(count_of(self))
        t = count.astype(jnp.float32)
        check_seen(self, step)  # before the optimizer inside says so
        lowered, new = self.lower(step)
        every_rule = _rules(new, parameters)
        inner_updates, optimizer = new.optimizer.advance(lowered)
        updates = list(inner_updates)  # the list itself may be that of the gradients
        both = where_updated(step.grads, updates)
        states = []
        for group in groups(self, parameters, both, every_rule):
            each = map(group.of, (step.grads, parameters.arrays, inner_updates))
            update, state = group.call(_wrap_leaf, group.rule, t, *each, group.state)
            group.part(update, updates)
            states.append((group, state))
        kept = kept_after(self, parameters, states)
        return updates, replace_fields(new, count=count, kept=kept, optimizer=optimizer)

    def evaluate(self, parameters: Parameters) -> list[AnyLeaf]:
        numbers = state_numbers(self, parameters)
        inner = self.optimizer.evaluate(parameters)
        if is_nothing(self.kept):
            return inner
        evaluated = list(inner)
        every_rule = _rules(self, parameters)
        seen = [None if n is None else x for n, x in zip(numbers, inner)]
        for group in groups(self, parameters, seen, every_rule):
            if group.state != ():
                each = map(group.of, (parameters.arrays, inner))
                new = group.call(_eval_leaf, group.rule, *each, group.state)
                group.part(new, evaluated)
        return evaluated


class AbstractWrapper(AbstractSharedWrapper):
    """A rule about the updates of another optimizer.

    A subclass is a field `optimizer`, its hyperparameters, and three methods of one
    parameter: `init_leaf`, `wrap_leaf` and `eval_leaf`. In all of them every
    hyperparameter of `self` is the scalar of this step and this parameter, and arrays
    come in at least float32. A rule without state returns `()` for it.
    """

    def start_shared(self, parameters: Parameters) -> Self:
        return self

    def lower(self, step: Step) -> tuple[Step, Self]:
        return step, self


def _rules(wrapper: W, parameters: Parameters) -> list[W]:
    """The wrapper as each parameter sees it, without the optimizer inside."""
    own = rules(replace_fields(wrapper, optimizer=None), parameters)
    remedy = wrapper.needs_inner_rate
    if remedy is None:
        return own
    rates: Any = rules(
        with_learning_rate(wrapper, wrapper.optimizer, remedy), parameters
    )
    return [
        replace_fields(rule, inner_rate=rate.learning_rate)
        for rule, rate in zip(own, rates)
    ]


@once_per_shape
def _wrap_leaf(
    rule: AbstractSharedWrapper,
    t: Scalar,
    grad: Leaf,
    param: Leaf,
    update: Leaf,
    state: PyTree,
) -> tuple[Leaf, PyTree]:
    check_state(rule.init_leaf, param, state)
    rule = replace_fields(rule, param_dtype=param.dtype)
    dtype = compute_dtype(param.dtype)
    t = t.astype(real_dtype(dtype))
    grad, param, update = (x.astype(dtype) for x in (grad, param, update))
    wide = jtu.tree_map(lambda x: widen(x, dtype), state)
    result = rule.wrap_leaf(t, grad, param, update, wide)
    update, new = check_result(rule, "wrap_leaf", result, param, state)
    new = jtu.tree_map(lambda x, old: x.astype(old.dtype), new, state)
    return update.astype(dtype), new


@once_per_shape
def _eval_leaf(
    rule: AbstractSharedWrapper, param: Leaf, evaluated: Leaf, state: PyTree
) -> Leaf:
    dtype = compute_dtype(param.dtype)
    wide = jtu.tree_map(lambda x: widen(x, dtype), state)
    new = rule.eval_leaf(param.astype(dtype), evaluated.astype(dtype), wide)
    return new.astype(param.dtype, copy=True)


def with_learning_rate(
    wrapper: AbstractTransform, optimizer: AbstractOptimizer, remedy: str
) -> AbstractTransform:
    """The one transform in `optimizer`, however deep, that has the learning rate.

    The `ValueError` raised if there is none, or several, says that `wrapper` needs it,
    and ends with `remedy`.
    """
    found = _having_learning_rate(optimizer)
    if len(found) != 1:
        has = "several learning rates" if found else "no learning rate"
        name = type(wrapper).__name__
        inside = f"put `{name}` inside, around each of them, or " if found else ""
        raise ValueError(
            f"`{name}`: `{type(optimizer).__name__}` has {has}, where one is needed: "
            f"{inside}{remedy}"
        )
    return found[0]


def _having_learning_rate(transform: AbstractTransform) -> list[AbstractTransform]:
    if getattr(transform, "learning_rate", None) is not None:
        return [transform]
    inner = inner_transforms(transform).values()
    return [one for x in inner for one in _having_learning_rate(x)]
