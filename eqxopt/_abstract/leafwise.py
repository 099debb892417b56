"""From a rule for one parameter to a transform or an optimizer for a model."""

import abc
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import PyTree

from .._compile.once import compute_with
from .._dtype import compute_dtype, real_dtype, widen
from .._math import plus_one
from .._sharding import placed_with
from .._tree import Parameters, replace_fields
from .._types import AnyLeaf, Leaf, Leaves, Scalar, Self
from .groups import first_states, groups, kept_after
from .optimizer import AbstractOptimizer
from .rules import (
    begun,
    check_result,
    check_state,
    keyed_rules,
    rules,
)
from .step import Step
from .transform import AbstractTransform, count_of


class AbstractLeafwiseTransform(AbstractTransform):
    """A transform that treats every parameter by the same rule, on its own.

    A subclass is its hyperparameters, `init_leaf` and `update_leaf`. In both methods
    every hyperparameter of `self` is the scalar of this step and this parameter, a
    mask is the boolean of this parameter, and in `update_leaf` a key is that of this
    step and this parameter. A rule without state returns `()` for it. Arrays come in at
    least float32; what the rule returns as state is rounded to the dtype that
    `init_leaf` gave it.
    """

    @abc.abstractmethod
    def init_leaf(self, param: Leaf) -> PyTree:
        """The state of one parameter before the first update."""

    @abc.abstractmethod
    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: Any
    ) -> tuple[Leaf, Any]:
        """The update number `t`, from 1, of one parameter, and its next state."""

    def start(self, parameters: Parameters) -> Self:
        new = begun(self, parameters)
        every_rule = rules(new, parameters)
        states = [
            placed_with(param, _first_state(rule, param))
            for rule, param in zip(every_rule, parameters.arrays)
        ]
        return replace_fields(new, kept=first_states(parameters, states, every_rule))

    def advance(self, step: Step) -> tuple[Leaves, Self]:
        parameters = step.parameters
        count = plus_one(count_of(self))
        t = count.astype(jnp.float32)
        updates: Leaves = [None] * len(parameters)
        states = []
        every_rule = keyed_rules(self, parameters)
        for group in groups(self, parameters, step.grads, every_rule):
            grad, param = group.of(step.grads), group.of(parameters.arrays)
            update, state = group.call(
                _update_leaf, group.rule, t, grad, param, group.state
            )
            group.part(update, updates)
            states.append((group, state))
        kept = kept_after(self, parameters, states)
        return updates, replace_fields(self, count=count, kept=kept)


class AbstractLeafwiseOptimizer(AbstractLeafwiseTransform, AbstractOptimizer):
    """An optimizer that treats every parameter by the same rule, on its own."""

    def evaluate(self, parameters: Parameters) -> list[AnyLeaf]:
        return parameters.arrays


def _first_state(rule: AbstractLeafwiseTransform, param: AnyLeaf) -> PyTree:
    state = rule.init_leaf(param)
    if state is None:
        raise TypeError(
            f"`{type(rule).__name__}.init_leaf` returned None. A rule without state "
            "returns `()`."
        )
    return state


@jax.jit
def _update_leaf(
    rule: AbstractLeafwiseTransform, t: Scalar, grad: Leaf, param: Leaf, state: PyTree
) -> tuple[Leaf, PyTree]:
    # Compiled on its own so that parameters of equal shape are traced and lowered
    # once, however many there are.
    check_state(rule.init_leaf, param, state)
    dtype = compute_dtype(param.dtype)
    grad, param = grad.astype(dtype), param.astype(dtype)
    with compute_with(dtype):
        wide = jtu.tree_map(lambda x: widen(x, dtype), state)
        result = rule.update_leaf(t.astype(real_dtype(dtype)), grad, param, wide)
    update, new = check_result(rule, "update_leaf", result, param, state)
    new = jtu.tree_map(lambda x, old: x.astype(old.dtype), new, state)
    return update.astype(dtype), new
