"""From a rule whose parameters share some numbers to an optimizer for a model."""

import abc
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import equinox as eqx
from jaxtyping import Array, Inexact, PyTree

from ._dtype import compute_dtype
from ._optimizer import AbstractOptimizer, count_of, needed_value
from ._rescaling import wide_gradients
from ._rules import rules, started
from ._tree import beside, Parameters, replace_fields
from ._types import Self
from ._wrapping import states_of


M = TypeVar("M")


class AbstractCoupledOptimizer(AbstractOptimizer):
    """An optimizer that treats every parameter by the same rule, in which numbers
    about all of them together have a part: a norm, a distance, an estimated rate.

    A subclass is its hyperparameters, `init_leaf`, `init_shared` and
    `update_together`.
    """

    shared: PyTree = eqx.field(default=None, init=False)
    """The numbers that all parameters share."""

    @abc.abstractmethod
    def init_leaf(self, param: Inexact[Array, "*shape"]) -> PyTree:
        """The state of one parameter before the first update."""

    @abc.abstractmethod
    def init_shared(self, params: Sequence[Inexact[Array, "..."]]) -> PyTree:
        """The numbers that `params`, all parameters, share before the first update."""

    @abc.abstractmethod
    def update_together(
        self,
        rules: Sequence[Any],
        grads: Sequence[Inexact[Array, "..."]],
        params: Sequence[Inexact[Array, "..."]],
        states: Sequence[Any],
        *,
        value: Any,
    ) -> tuple[list[Inexact[Array, "..."]], list[Any], PyTree]:
        """The updates of all parameters that have a gradient, their next states, and
        the next numbers that they share.

        `rules` are this optimizer as each parameter sees it: every hyperparameter is
        the scalar of this step and parameter, in the parameter's real dtype. Gradients
        and parameters come at least in float32. `self.count` is already that of this
        update, and `self.shared` are the numbers so far.
        """

    def init(self, params: PyTree) -> Self:
        parameters = Parameters(params)
        new = started(self, parameters)
        states = [
            beside(param, rule.init_leaf(param))
            for rule, param in zip(_rules(new, parameters), parameters.arrays)
        ]
        return replace_fields(
            new,
            state=parameters.tree(states),
            shared=new.init_shared(parameters.arrays),
        )

    def update(
        self,
        grads: PyTree,
        params: PyTree,
        *,
        value: Any = None,
        value_fn: Callable[..., Any] | None = None,
    ) -> tuple[PyTree, Self]:
        del value_fn
        count = count_of(self) + 1
        parameters = Parameters(params)
        grad_leaves = wide_gradients(self, grads, parameters)
        states = states_of(self, parameters, grad_leaves)
        every_rule = _rules(self, parameters)
        at = [i for i, grad in enumerate(grad_leaves) if grad is not None]
        changes, new_states, shared = replace_fields(self, count=count).update_together(
            [every_rule[i] for i in at],
            [grad for grad in grad_leaves if grad is not None],
            [_wide(parameters.arrays[i]) for i in at],
            [states[i] for i in at],
            value=None if value is None else needed_value(self, value),
        )
        updates: list[Array | None] = [None] * len(parameters)
        for i, change, state in zip(at, changes, new_states):
            updates[i], states[i] = change, state
        return parameters.tree(updates), replace_fields(
            self, count=count, state=parameters.tree(states), shared=shared
        )

    def eval_params(self, params: M) -> M:
        return params


def _rules(
    optimizer: AbstractCoupledOptimizer, parameters: Parameters
) -> list[AbstractCoupledOptimizer]:
    # Shared numbers come as arguments of what is compiled for one parameter.
    return rules(replace_fields(optimizer, shared=None), parameters)


def _wide(param: Inexact[Array, "..."]) -> Inexact[Array, "..."]:
    return param.astype(compute_dtype(param.dtype))
