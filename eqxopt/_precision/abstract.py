"""Optimizers around others that keep what rounding to bfloat16 or float16 loses."""

import abc
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Int, PyTree

from .._abstract.groups import first_states, groups, kept_after, where_updated
from .._abstract.optimizer import AbstractOptimizer
from .._abstract.rules import begun, check_seen, check_state, keyed_rules, state_numbers
from .._abstract.step import Step
from .._abstract.transform import count_of
from .._compile.once import computed_once, once_per_shape
from .._dtype import is_narrow
from .._math import plus_one
from .._sharding import placed_with
from .._tree import Parameters, replace_fields
from .._types import AnyLeaf, Leaf, Leaves, Self


class AbstractNarrowWeights(AbstractOptimizer):
    """An optimizer for parameters in bfloat16 or float16, around one that trains wider
    ones.

    The optimizer inside is given these parameters in float32, and updates them as if
    the model were float32. Parameters of all other dtypes are passed on as they are,
    without state.

    A subclass is a field `optimizer` and three methods of one narrow parameter.
    `init_leaf` gives its state before the first update, `widen_leaf` the float32 value
    that the optimizer inside sees and updates, and `round_leaf` what the model then
    holds, with the next state. A key of `self` is that of this step and this parameter.
    A rule without state returns `()` for it.

    `widen_leaf` is given the parameter as it is, which something else may have changed
    since the last update: then that is what counts.
    """

    keeps_small_updates: ClassVar[bool] = True
    passes_gradients: ClassVar[bool] = True

    optimizer: eqx.AbstractVar[AbstractOptimizer]
    """The optimizer inside."""

    @abc.abstractmethod
    def init_leaf(self, param: Leaf) -> PyTree:
        """The state of one narrow parameter before the first update."""

    @abc.abstractmethod
    def widen_leaf(self, param: Leaf, state: Any) -> Leaf:
        """The parameter with all that is known of it, in float32."""

    @abc.abstractmethod
    def round_leaf(self, wide: Leaf, dtype: jnp.dtype) -> tuple[Leaf, Any]:
        """What the model holds for `wide`, as a float32 array of numbers that `dtype`
        has, and the next state. Without an update, both must be what they were."""

    def start(self, parameters: Parameters) -> Self:
        _check_dtypes(self, parameters)
        new = begun(self, parameters)
        every_rule = _rules(new, parameters)
        states = [
            placed_with(param, rule.init_leaf(param)) if is_narrow(param.dtype) else ()
            for rule, param in zip(every_rule, parameters.arrays)
        ]
        wide = [
            param.astype(jnp.float32) if is_narrow(param.dtype) else param
            for param in parameters.arrays
        ]
        return replace_fields(
            new,
            optimizer=self.optimizer.start(parameters.exchange(wide)),
            kept=first_states(parameters, states, every_rule),
        )

    def advance(self, step: Step) -> tuple[Leaves, Self]:
        parameters = step.parameters
        count = plus_one(count_of(self))
        check_seen(self, step)
        every_rule = _rules(self, parameters)
        wide = _widened_parameters(self, parameters, every_rule)
        functions = step.value_fn, step.residual_fn
        value_fn, residual_fn = (f and _of_narrow(f, parameters) for f in functions)
        lowered = Step(wide, step.grads, step.value, value_fn, residual_fn)
        inner_updates, optimizer = self.optimizer.advance(lowered)
        updates = list(inner_updates)
        both = where_updated(step.grads, updates)
        states = []
        for group in groups(self, parameters, _narrow(both, parameters), every_rule):
            each = map(group.of, (parameters.arrays, inner_updates))
            update, state = group.call(_rounded, group.rule, count, *each, group.state)
            group.part(update, updates)
            states.append((group, state))
        kept = kept_after(self, parameters, states)
        return updates, replace_fields(
            self, optimizer=optimizer, count=count, kept=kept
        )

    def evaluate(self, parameters: Parameters) -> list[AnyLeaf]:
        wide = _widened_parameters(self, parameters, _rules(self, parameters))
        evaluated = self.optimizer.evaluate(wide)
        if evaluated is wide.arrays:
            return parameters.arrays
        return [
            param if new is old else new.astype(param.dtype, copy=True)
            for param, old, new in zip(parameters.arrays, wide.arrays, evaluated)
        ]


def _check_dtypes(transform: AbstractNarrowWeights, parameters: Parameters) -> None:
    for i, param in enumerate(parameters.arrays):
        if jnp.finfo(param.dtype).bits < 16:
            raise TypeError(
                f"`{type(transform).__name__}`: {parameters.path(i)} has dtype "
                f"{param.dtype}, in which nothing can be trained. Hold it in bfloat16 "
                "or float16, and convert it where the model uses it"
            )


def _rules(
    transform: AbstractNarrowWeights, parameters: Parameters
) -> list[AbstractNarrowWeights]:
    return keyed_rules(replace_fields(transform, optimizer=None), parameters)


def _narrow(values: Leaves, parameters: Parameters) -> Leaves:
    """`values` of the narrow parameters, and `None` for all others."""
    return [
        x if is_narrow(param.dtype) else None
        for x, param in zip(values, parameters.arrays)
    ]


def _widened_parameters(
    transform: AbstractNarrowWeights,
    parameters: Parameters,
    every_rule: list[AbstractNarrowWeights],
) -> Parameters:
    """The parameters as the optimizer inside sees them."""
    numbers = state_numbers(transform, parameters)
    seen: Leaves = [
        None if number is None else param
        for number, param in zip(numbers, parameters.arrays)
    ]
    wide = list(parameters.arrays)
    for group in groups(transform, parameters, _narrow(seen, parameters), every_rule):
        param = group.of(parameters.arrays)
        group.part(group.call(_widened, group.rule, param, group.state), wide)
    return parameters.exchange(wide)


def _of_narrow(
    function: Callable[..., Any], parameters: Parameters
) -> Callable[[PyTree], Any]:
    """`function` of the model, for a model whose narrow parameters are wide."""

    def of_wide(model: PyTree) -> Any:
        arrays = [
            wide.astype(param.dtype)
            for wide, param in zip(
                parameters.align(model, "the parameters"), parameters.arrays
            )
        ]
        return function(parameters.model(arrays))

    return of_wide


@once_per_shape
def _widened(rule: AbstractNarrowWeights, param: Leaf, state: PyTree) -> Leaf:
    check_state(rule.init_leaf, param, state)
    return rule.widen_leaf(param, state)


@once_per_shape
def _rounded(
    rule: AbstractNarrowWeights,
    count: Int[Array, ""],
    param: Leaf,
    update: Leaf,
    state: PyTree,
) -> tuple[Leaf, PyTree]:
    """What to add to a parameter, so that it is rounded as `rule` says, and the next
    state."""
    wide = rule.widen_leaf(param, state) + update
    # A state in float32 is `wide` itself, and so in memory anyway.
    if any(x.dtype != wide.dtype for x in jtu.tree_leaves(state)):
        wide = computed_once(wide, count)
    narrow, new = rule.round_leaf(wide, param.dtype)
    return _difference(narrow, param.astype(jnp.float32)), new


@jax.custom_jvp
def _difference(new: Leaf, old: Leaf) -> Leaf:
    # Adding 0.0 would turn a parameter of -0.0 into 0.0. From infinity nothing leads to
    # another number.
    stays = (new == old) | (jnp.isinf(old) & ~jnp.isnan(new))
    return jnp.where(stays, -0.0, new - old)


@_difference.defjvp
def _difference_jvp(primals, tangents):
    return _difference(*primals), tangents[0] - tangents[1]
