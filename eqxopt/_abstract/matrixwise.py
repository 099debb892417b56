"""From a rule for matrices, with a fallback for all else, to an optimizer."""

import abc
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import equinox as eqx
import jax
from jaxtyping import PyTree

from .._fields.keys import own_keys
from .._fields.matrices import Matrices, MatrixView
from .._sharding import beside
from .._tree import Parameters, replace_fields
from .._types import AnyLeaf, Self
from .optimizer import AbstractOptimizer, count_of, inner_transforms
from .rules import gradients, rules, started, states_of


M = TypeVar("M")


class AbstractMatrixOptimizer(AbstractOptimizer):
    """An optimizer that has a rule for matrices, and leaves all other parameters to
    another optimizer.

    A subclass is its hyperparameters, `init_matrix`, and `update_matrices`, which gets
    all matrices that have a gradient, so that it can treat those of one shape
    together.
    """

    fallback: eqx.AbstractVar[AbstractOptimizer]
    matrices: eqx.AbstractVar[Matrices]

    @abc.abstractmethod
    def init_matrix(self, param: AnyLeaf, view: MatrixView) -> PyTree:
        """The state of one matrix before the first update."""

    @abc.abstractmethod
    def update_matrices(
        self,
        rules: Sequence[Any],
        grads: Sequence[AnyLeaf],
        params: Sequence[AnyLeaf],
        states: Sequence[Any],
        views: Sequence[MatrixView],
    ) -> tuple[list[AnyLeaf], list[Any]]:
        """The updates of matrices, and their next states. `rules` are this optimizer
        as each of them sees it, with keys of this step and matrix, and `self.count` is
        already that of this update."""

    def init(self, params: PyTree) -> Self:
        parameters = Parameters(params)
        new = started(self, parameters)
        views = self._views(parameters)
        states = [
            None if view is None else beside(param, rule.init_matrix(param, view))
            for rule, param, view in zip(
                _rules(new, parameters), parameters.arrays, views
            )
        ]
        others = [x if v is None else None for x, v in zip(parameters.arrays, views)]
        return replace_fields(
            new,
            state=parameters.tree(states),
            fallback=self.fallback.init(parameters.tree(others)),
        )

    def update(
        self,
        grads: PyTree,
        params: PyTree,
        *,
        value: Any = None,
        value_fn: Callable[..., Any] | None = None,
    ) -> tuple[PyTree, Self]:
        count = count_of(self) + 1
        parameters = Parameters(params)
        grad_leaves = gradients(self, grads, parameters)
        views = self._views(parameters)
        own = [None if v is None else g for g, v in zip(grad_leaves, views)]
        keys = own_keys(self, count_of(self), len(parameters))
        every_rule = [
            replace_fields(rule, **key) if key else rule
            for rule, key in zip(_rules(self, parameters), keys)
        ]
        shapes = _state_shapes(every_rule, parameters, views)
        states = states_of(self, parameters, own, shapes)
        updates, fallback = self._update_others(
            parameters, grad_leaves, views, value=value, value_fn=value_fn
        )
        at = [i for i, grad in enumerate(own) if grad is not None]
        changes, new_states = replace_fields(self, count=count).update_matrices(
            [every_rule[i] for i in at],
            [grad for grad in own if grad is not None],
            [parameters.arrays[i] for i in at],
            [states[i] for i in at],
            [view for view, grad in zip(views, own) if view and grad is not None],
        )
        for i, change, state in zip(at, changes, new_states):
            updates[i], states[i] = change, state
        return parameters.tree(updates), replace_fields(
            self, count=count, state=parameters.tree(states), fallback=fallback
        )

    def eval_params(self, params: M) -> M:
        parameters = Parameters(params)
        views = self._views(parameters)
        others = [x if v is None else None for x, v in zip(parameters.arrays, views)]
        evaluated = self.fallback.eval_params(parameters.tree(others))
        return _with_others(
            parameters, views, parameters.align(evaluated, "the parameters")
        )

    def groups(self, parameters: Parameters) -> list[str]:
        """Whether each parameter is a matrix, a stack of them, or what the name of the
        fallback says."""
        (fallback,) = inner_transforms(self)
        kinds = self.matrices.at(parameters, f"`{type(self).__name__}.matrices`")
        return [fallback if kind == "fallback" else kind for kind in kinds]

    def _views(self, parameters: Parameters) -> list[MatrixView | None]:
        name = f"`{type(self).__name__}.matrices`"
        return self.matrices.views(parameters, name)

    def _update_others(
        self,
        parameters: Parameters,
        grads: Sequence[AnyLeaf | None],
        views: Sequence[MatrixView | None],
        *,
        value: Any,
        value_fn: Callable[..., Any] | None,
    ) -> tuple[list[Any], AbstractOptimizer]:
        def only_others(values: Sequence[Any]) -> PyTree:
            return parameters.tree(
                [x if view is None else None for x, view in zip(values, views)]
            )

        def loss_of_others(others: PyTree) -> Any:
            changed = parameters.align(others, "the parameters")
            return value_fn and value_fn(_with_others(parameters, views, changed))

        updates, fallback = self.fallback.update(
            only_others(grads),
            only_others(parameters.arrays),
            value=value,
            value_fn=value_fn and loss_of_others,
        )
        return parameters.align(updates, "the updates"), fallback


def _rules(
    optimizer: AbstractMatrixOptimizer, parameters: Parameters
) -> list[AbstractMatrixOptimizer]:
    # The fallback has its own hyperparameters and is no part of the rule.
    return rules(replace_fields(optimizer, fallback=None), parameters)


def _state_shapes(
    every_rule: Sequence[AbstractMatrixOptimizer],
    parameters: Parameters,
    views: Sequence[MatrixView | None],
) -> list[tuple[int, ...]]:
    """The shape of the first array in the state of each matrix."""
    known: dict[Any, tuple[int, ...]] = {}
    shapes = []
    for rule, param, view in zip(every_rule, parameters.arrays, views):
        key = view, param.dtype
        if view is not None and key not in known:
            state = jax.eval_shape(rule.init_matrix, param, view)
            known[key] = next((x.shape for x in jax.tree.leaves(state)), param.shape)
        shapes.append(known.get(key, param.shape))
    return shapes


def _with_others(
    parameters: Parameters, views: Sequence[MatrixView | None], others: Sequence[Any]
) -> Any:
    """The model with all that is no matrix exchanged."""
    arrays = [
        other if view is None else old
        for old, other, view in zip(parameters.arrays, others, views)
    ]
    return parameters.tree(arrays, rest=True)
