"""Groups of parameters, each with an optimizer of its own or with none."""

from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax.tree_util as jtu
from jaxtyping import PyTree

from .._abstract.optimizer import AbstractOptimizer, count_of
from .._abstract.rules import gradients, started
from .._fields import as_labels, as_mask, Labels
from .._tree import is_function, Parameters, replace_fields
from .._types import Self


M = TypeVar("M")


class Partition(AbstractOptimizer):
    """Groups of parameters, each with its own optimizer.

    **Arguments:**

    - `optimizers`: a dictionary from labels to optimizers.
    - `labels`: the label of each parameter: a function of `(path, array)`, or a tree
        of labels that is a prefix of the model.

    The optimizer of a group keeps state for its own parameters only. It is found under
    its label, as is every hyperparameter: `opt.optimizers["decay"]`,
    `opt.replace(**{"decay.learning_rate": 1e-4})`.

    **Raises:** a `ValueError` for a label that is none of the dictionary's, with the
    path of the parameter.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp, eqxopt
        >>> params = {"weight": jnp.ones((2, 2)), "bias": jnp.ones(2)}
        >>> opt = eqxopt.Partition(
        ...     {"matrices": eqxopt.SGD(0.5), "rest": eqxopt.Freeze()},
        ...     lambda path, array: "matrices" if array.ndim > 1 else "rest",
        ... ).init(params)
        >>> params, opt = opt.apply(params, params)
        >>> print(params["weight"][0], params["bias"])
        [0.5 0.5] [1. 1.]

        ```
    """

    optimizers: dict[str, AbstractOptimizer] = eqx.field(converter=dict)
    labels: Labels = eqx.field(converter=as_labels, static=True)

    def __check_init__(self) -> None:
        for label, optimizer in self.optimizers.items():
            if not isinstance(optimizer, AbstractOptimizer):
                raise TypeError(
                    f"`Partition`: {optimizer!r}, for {label!r}, is no optimizer. To "
                    "leave parameters alone give `eqxopt.Freeze()`."
                )

    def init(self, params: PyTree) -> Self:
        parameters = Parameters(params)
        groups = self.groups(parameters)
        return replace_fields(
            started(self, parameters),
            optimizers={
                label: x.init(_only(parameters, parameters.arrays, groups, label))
                for label, x in self.optimizers.items()
            },
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
        groups = self.groups(parameters)
        updates: list[Any] = [None] * len(parameters)
        optimizers = {}
        for label, optimizer in self.optimizers.items():
            own_updates, optimizers[label] = optimizer.update(
                _only(parameters, grad_leaves, groups, label),
                _only(parameters, parameters.arrays, groups, label),
                value=value,
                value_fn=value_fn and _on_group(value_fn, parameters, groups, label),
            )
            for i, update in enumerate(parameters.align(own_updates, "the updates")):
                if groups[i] == label:
                    updates[i] = update
        return parameters.tree(updates), replace_fields(
            self, count=count, optimizers=optimizers
        )

    def eval_params(self, params: M) -> M:
        parameters = Parameters(params)
        groups = self.groups(parameters)
        arrays = list(parameters.arrays)
        for label, optimizer in self.optimizers.items():
            own = _only(parameters, parameters.arrays, groups, label)
            evaluated = parameters.align(optimizer.eval_params(own), "the parameters")
            for i, array in enumerate(evaluated):
                if groups[i] == label:
                    arrays[i] = array
        return parameters.tree(arrays, rest=True)

    def groups(self, parameters: Parameters) -> list[str]:
        """The label of each parameter."""
        labels = self.labels.at(parameters, "`Partition.labels`")
        for i, label in enumerate(labels):
            if label not in self.optimizers:
                known = ", ".join(repr(x) for x in self.optimizers)
                raise ValueError(
                    f"`Partition`: {parameters.path(i)} has the label {label!r}, for "
                    f"which there is no optimizer; there are {known}"
                )
        return labels


def _only(
    parameters: Parameters, values: list[Any], groups: list[str], label: str
) -> PyTree:
    """The tree of `values` in one group, with `None` in the others."""
    return parameters.tree(
        [x if group == label else None for x, group in zip(values, groups)]
    )


def _on_group(
    value_fn: Callable[..., Any], parameters: Parameters, groups: list[str], label: str
) -> Callable[..., Any]:
    """The loss as a function of one group, the others as they are."""

    def of_group(own: PyTree) -> Any:
        changed = parameters.align(own, "the parameters")
        arrays = [
            new if group == label else old
            for new, old, group in zip(changed, parameters.arrays, groups)
        ]
        return value_fn(parameters.tree(arrays, rest=True))

    return of_group


class Freeze(AbstractOptimizer):
    """Leaves parameters alone: no update, no decay and no state.

    It stands for a group in a [`Partition`][eqxopt.Partition].

    !!! example

        ```pycon
        >>> import jax.numpy as jnp, eqxopt
        >>> params = jnp.ones(2)
        >>> opt = eqxopt.Freeze().init(params)
        >>> print(opt.apply(params, params)[0])
        [1. 1.]

        ```
    """

    def init(self, params: PyTree) -> Self:
        return started(self, Parameters(params))

    def update(
        self,
        grads: PyTree,
        params: PyTree,
        *,
        value: Any = None,
        value_fn: Callable[..., Any] | None = None,
    ) -> tuple[PyTree, Self]:
        del value, value_fn
        count = count_of(self) + 1
        parameters = Parameters(params)
        gradients(self, grads, parameters)
        nothing = parameters.tree([None] * len(parameters))
        return nothing, replace_fields(self, count=count)

    def eval_params(self, params: M) -> M:
        return params


def masked(optimizer: AbstractOptimizer, mask: Any) -> Partition:
    """`optimizer` for the parameters that `mask` selects, and nothing for the others:
    no update, no decay and no state.

    **Arguments:**

    - `optimizer`: any optimizer.
    - `mask`: a function of `(path, array)`, or a tree of booleans that is a prefix of
        the model.

    **Returns:** a [`Partition`][eqxopt.Partition] into `"trained"` and `"frozen"`.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp, eqxopt
        >>> params = {"head": jnp.ones(2), "body": jnp.ones(2)}
        >>> opt = eqxopt.masked(eqxopt.SGD(0.5), {"head": True, "body": False})
        >>> params, opt = opt.init(params).apply(params, params)
        >>> print(params["head"], params["body"])
        [0.5 0.5] [1. 1.]

        ```
    """
    as_mask(mask)  # for its errors
    name = lambda on: "trained" if on else "frozen"
    if is_function(mask):
        labels = lambda path, array: name(mask(path, array))
    else:
        labels = jtu.tree_map(name, mask)
    return Partition({"trained": optimizer, "frozen": Freeze()}, labels)
