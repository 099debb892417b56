"""From a rule whose parameters share some numbers to an optimizer for a model."""

import abc
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import PyTree

from .._compile.once import once_per_shape, summed
from .._dtype import compute_dtype, real_dtype, widest_real_dtype
from .._math import plus_one
from .._number import copied
from .._sharding import placed_with
from .._tree import Parameters, replace_fields
from .._types import AnyLeaf, Leaf, Leaves, Scalar, Self
from .groups import first_states, groups, kept_after
from .nested import hyperparameter_names
from .optimizer import AbstractOptimizer
from .rules import begun, check_state, rules, scalar_of
from .step import Step
from .transform import count_of


class AbstractCoupledOptimizer(AbstractOptimizer):
    """An optimizer that treats every parameter by the same rule, in which numbers
    about all of them together have a part: a norm, a distance, an estimated rate.

    A step is made in three parts. `measure_leaf` takes in the gradient of one parameter
    and gives its terms of some sums over all; `update_shared` makes the next shared
    numbers of the sums; and with these `update_leaf` gives the update of one parameter.

    A subclass is its hyperparameters and these methods. In those of one parameter every
    hyperparameter of `self` is the scalar of this step and this parameter; in those of
    all, `self` has only `shared_hyperparameters`. All arrays come at least in float32,
    and the shared numbers in the dtype of the others.
    """

    shared: PyTree = eqx.field(default=None, init=False)
    """The numbers that all parameters share."""
    shared_hyperparameters: eqx.AbstractClassVar[tuple[str, ...]]
    """The names of those that are one number for the whole model."""

    @abc.abstractmethod
    def init_leaf(self, param: Leaf) -> PyTree:
        """The state of one parameter before the first update."""

    @abc.abstractmethod
    def init_shared(self, params: Sequence[AnyLeaf]) -> PyTree:
        """The numbers that `params`, all parameters, share before the first update."""

    @abc.abstractmethod
    def measure_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: Any, shared: Any
    ) -> tuple[PyTree, Any]:
        """The terms of the sums that one parameter gives in the update number `t`, from
        1, and its next state."""

    @abc.abstractmethod
    def update_shared(self, t: Scalar, sums: Any, shared: Any, value: Any) -> PyTree:
        """The next shared numbers. `value` is the loss, or `None`."""

    @abc.abstractmethod
    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: Any, shared: Any
    ) -> Leaf:
        """The update of one parameter, from its next state and the next shared
        numbers."""

    def start(self, parameters: Parameters) -> Self:
        new = begun(self, parameters)
        every_rule = _rules(new, parameters)
        states = [
            placed_with(param, rule.init_leaf(param))
            for rule, param in zip(every_rule, parameters.arrays)
        ]
        whole = _of_all(new, widest_real_dtype(parameters.arrays))
        return replace_fields(
            new,
            kept=first_states(parameters, states, every_rule),
            shared=copied(whole.init_shared(parameters.arrays)),
        )

    def advance(self, step: Step) -> tuple[Leaves, Self]:
        parameters = step.parameters
        count = plus_one(count_of(self))
        t = count.astype(jnp.float32)
        every_rule = _rules(self, parameters)
        terms, measured = [], []
        for group in groups(self, parameters, step.grads, every_rule):
            grad, param = group.of(step.grads), group.of(parameters.arrays)
            term, state = group.call(
                _measure_leaf, group.rule, t, grad, param, group.state, self.shared
            )
            terms.append(group.numbers(term))
            measured.append((group, grad, param, state))
        shared = self.shared
        if terms:
            dtype = widest_real_dtype(parameters.arrays)
            loss = None if step.value is None else step.value.astype(dtype)
            shared = _of_all(self, dtype).update_shared(
                t.astype(dtype), summed(terms, dtype), shared, loss
            )
        updates: Leaves = [None] * len(parameters)
        for group, grad, param, state in measured:
            update = group.call(_update_leaf, group.rule, t, grad, param, state, shared)
            group.part(update, updates)
        states = [(group, state) for group, _, _, state in measured]
        kept = kept_after(self, parameters, states)
        return updates, replace_fields(self, count=count, kept=kept, shared=shared)

    def evaluate(self, parameters: Parameters) -> list[AnyLeaf]:
        return parameters.arrays


def _rules(
    optimizer: AbstractCoupledOptimizer, parameters: Parameters
) -> list[AbstractCoupledOptimizer]:
    # Shared numbers come as arguments of what is compiled for one parameter.
    return rules(replace_fields(optimizer, shared=None), parameters)


def _of_all(
    optimizer: AbstractCoupledOptimizer, dtype: jnp.dtype
) -> AbstractCoupledOptimizer:
    """The optimizer as all parameters together see it: the hyperparameters that they
    share are scalars of `dtype` at this step, and there are no others."""
    scalars = {
        name: scalar_of(optimizer, name).astype(dtype)
        if name in optimizer.shared_hyperparameters
        and getattr(optimizer, name) is not None
        else None
        for name in hyperparameter_names(optimizer)
    }
    return replace_fields(optimizer, count=None, kept=None, shared=None, **scalars)


@once_per_shape
def _measure_leaf(
    rule: AbstractCoupledOptimizer,
    t: Scalar,
    grad: Leaf,
    param: Leaf,
    state: Any,
    shared: Any,
) -> tuple[PyTree, Any]:
    check_state(rule.init_leaf, param, state)
    return rule.measure_leaf(*_wide(t, grad, param, state, shared))


@once_per_shape
def _update_leaf(
    rule: AbstractCoupledOptimizer,
    t: Scalar,
    grad: Leaf,
    param: Leaf,
    state: Any,
    shared: Any,
) -> Leaf:
    return rule.update_leaf(*_wide(t, grad, param, state, shared))


def _wide(
    t: Scalar, grad: Leaf, param: Leaf, state: Any, shared: Any
) -> tuple[Any, ...]:
    """All that one parameter is given, in the dtype in which its rule computes."""
    dtype = compute_dtype(param.dtype)
    real = real_dtype(dtype)
    numbers = jtu.tree_map(lambda x: x.astype(real), shared)
    return t.astype(real), grad.astype(dtype), param.astype(dtype), state, numbers
