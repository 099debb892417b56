"""Groups of parameters, each with an optimizer of its own or with none."""

from collections.abc import Mapping
from typing import Any, ClassVar

import equinox as eqx

from .._abstract.optimizer import AbstractOptimizer
from .._abstract.rules import begun
from .._abstract.step import Step
from .._abstract.transform import count_of
from .._fields import as_labels, as_mask, Labels, Mask
from .._math import plus_one
from .._tree import fill, mapped_choice, Parameters, replace_fields
from .._types import AnyLeaf, Leaves, Self


def _as_dictionary(optimizers: Any) -> dict[str, Any]:
    if not isinstance(optimizers, Mapping):
        raise TypeError(
            "a dictionary from labels to optimizers comes first, and then the label of "
            "each parameter"
        )
    return dict(optimizers)


class Partition(AbstractOptimizer):
    """Groups of parameters, each with its own optimizer.

    **Arguments:**

    - `optimizers`: a dictionary from labels to optimizers.
    - `labels`: the label of each parameter, a [selector][selectors].

    The optimizer of a group keeps state only for its own parameters. Find it, and its
    hyperparameters, under its label: `opt.optimizers["decay"]`,
    `opt.replace(**{"decay.learning_rate": 1e-4})`.

    **Raises:** a `ValueError` with the path of a parameter whose label is not there.

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

    optimizers: dict[str, AbstractOptimizer] = eqx.field(converter=_as_dictionary)
    labels: Labels = eqx.field(converter=as_labels, static=True)

    def __check_init__(self) -> None:
        for label, optimizer in self.optimizers.items():
            if not isinstance(optimizer, AbstractOptimizer):
                raise TypeError(
                    f"`Partition`: {optimizer!r}, for {label!r}, is no optimizer. To "
                    "leave parameters alone give `eqxopt.Freeze()`."
                )

    def start(self, parameters: Parameters) -> Self:
        places = self._places(parameters)
        optimizers = {
            label: optimizer.start(parameters.only(places[label]))
            for label, optimizer in self.optimizers.items()
        }
        return replace_fields(begun(self, parameters), optimizers=optimizers)

    def advance(self, step: Step) -> tuple[Leaves, Self]:
        count = plus_one(count_of(self))
        places = self._places(step.parameters)
        updates: Leaves = [None] * len(step.parameters)
        optimizers = {}
        for label, optimizer in self.optimizers.items():
            own, optimizers[label] = optimizer.advance(step.only(places[label]))
            fill(updates, places[label], own)
        return updates, replace_fields(self, count=count, optimizers=optimizers)

    def evaluate(self, parameters: Parameters) -> list[AnyLeaf]:
        places = self._places(parameters)
        arrays = list(parameters.arrays)
        for label, optimizer in self.optimizers.items():
            own = parameters.only(places[label])
            fill(arrays, places[label], optimizer.evaluate(own))
        return arrays

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

    def _places(self, parameters: Parameters) -> dict[str, list[bool]]:
        """Which parameters each group has."""
        groups = self.groups(parameters)
        return {label: [x == label for x in groups] for label in self.optimizers}


class Freeze(AbstractOptimizer):
    """Leaves parameters as they are: no update, no decay and no state.

    Use it for a group of a [`Partition`][eqxopt.Partition].
    """

    keeps_small_updates: ClassVar[bool] = True  # there are none

    def start(self, parameters: Parameters) -> Self:
        return begun(self, parameters)

    def advance(self, step: Step) -> tuple[Leaves, Self]:
        new = replace_fields(self, count=plus_one(count_of(self)))
        return [None] * len(step.parameters), new

    def evaluate(self, parameters: Parameters) -> list[AnyLeaf]:
        return parameters.arrays


def masked(optimizer: AbstractOptimizer, mask: Any) -> Partition:
    """`optimizer` for the parameters that `mask` selects. The others stay as they are:
    no update, no decay and no state.

    **Arguments:**

    - `optimizer`: any optimizer.
    - `mask`: which parameters to train, a [selector][selectors].

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
    if not isinstance(optimizer, AbstractOptimizer):
        raise TypeError(
            "`masked` takes the optimizer first, `masked(optimizer, mask)`, not "
            f"{optimizer!r}"
        )
    as_mask(mask)  # raises the errors of a mask, rather than those of labels

    def label(on: Any) -> str:
        trained = Mask(True).read(on, "`masked`: the mask", None)
        return "trained" if trained else "frozen"

    labels = mapped_choice(label, mask)
    return Partition({"trained": optimizer, "frozen": Freeze()}, labels)
