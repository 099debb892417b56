"""Hyperparameters: a number, a schedule, or a choice of these for each parameter."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TYPE_CHECKING, TypeAlias

import equinox as eqx
import jax
import jax.tree_util as jtu
from jaxtyping import Array, Int, PyTree

from .._number import as_number, copied, error_about, Interval, NumberLike
from .._schedule.abstract import AbstractSchedule, as_schedule
from .._tree import (
    choose,
    is_choice,
    is_function,
    mapped_choice,
    needed_arguments,
    Parameters,
)
from .._types import Scalar


def _is_schedule(x: object) -> bool:
    return isinstance(x, AbstractSchedule)


class PerParameter(eqx.Module):
    """A hyperparameter that differs from parameter to parameter.

    You rarely write this name: a hyperparameter accepts both forms of a choice as they
    are. `init` calls a function of `(path, array)`, or of `(path, array, modules)`,
    once for every parameter, and its answers become arrays like any other
    hyperparameter.

    **Arguments:**

    - `choice`: such a function, a [selector][selectors], or a tree that is a prefix of
        the model; either gives numbers and schedules.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp, eqxopt
        >>> params = {"slow": jnp.ones(2), "fast": jnp.ones(2)}
        >>> opt = eqxopt.SGD(lambda path, array: 0.1 if "slow" in path else 1.0)
        >>> params, opt = opt.init(params).apply(params, params)
        >>> print(params["slow"], params["fast"])
        [0.9 0.9] [0. 0.]

        ```
    """

    tree: PyTree[Scalar | AbstractSchedule]
    function: Callable[..., Any] | None = eqx.field(static=True)

    def __init__(self, choice: PyTree | Callable[..., Any]):
        if is_function(choice):
            self.tree, self.function = None, choice
        else:
            self.tree = jtu.tree_map(_number_or_schedule, choice, is_leaf=_is_schedule)
            self.function = None

    def at(self, parameters: Parameters, what: str) -> list[Scalar | AbstractSchedule]:
        """The hyperparameter of each parameter."""
        if self.function is None:
            return choose(self.tree, parameters, what, is_leaf=_is_schedule)
        chosen = choose(self.function, parameters, what)
        return [
            _chosen(value, f"{what}, for {parameters.path(i)}")
            for i, value in enumerate(chosen)
        ]

    def __mul__(self, factor: float) -> "PerParameter":
        """Every choice times a number."""
        scaled = lambda x: factor * _number_or_schedule(x)
        choice = self.tree if self.function is None else self.function
        return PerParameter(mapped_choice(scaled, choice, is_leaf=_is_schedule))

    __rmul__ = __mul__

    def by_path(self) -> Iterator[tuple[str, Scalar | AbstractSchedule]]:
        """The choices with the places that they speak for."""
        flat, _ = jtu.tree_flatten_with_path(self.tree, is_leaf=_is_schedule)
        return ((jtu.keystr(path), leaf) for path, leaf in flat)


HyperparameterLike: TypeAlias = (
    NumberLike
    | AbstractSchedule
    | Callable[..., Any]
    | PerParameter
    | Mapping
    | tuple
    | list
    | eqx.Module
)
"""What a hyperparameter is set to: a number or scalar array, a schedule or function of
the step, or a choice per parameter, which is a function of the path and the array or a
tree that is a prefix of the model."""

if TYPE_CHECKING:

    class Hyperparameter:
        """A field that is set to a `HyperparameterLike`. Inside a rule it is read as
        the scalar of this step and this parameter."""

        def __get__(self, instance: object, owner: Any = None) -> Scalar: ...
        def __set__(self, instance: object, value: HyperparameterLike) -> None: ...

    class OptionalHyperparameter:
        """A `Hyperparameter` that may also be `None`."""

        def __get__(self, instance: object, owner: Any = None) -> Scalar | None: ...
        def __set__(
            self, instance: object, value: HyperparameterLike | None
        ) -> None: ...

else:
    Hyperparameter: TypeAlias = Scalar | AbstractSchedule | PerParameter
    OptionalHyperparameter: TypeAlias = Hyperparameter | None


def _number_or_schedule(x: Any) -> Scalar | AbstractSchedule:
    if isinstance(x, AbstractSchedule) or is_function(x):
        return as_schedule(x)
    return as_number(x)


def _chosen(value: Any, what: str) -> Scalar | AbstractSchedule:
    try:
        return _number_or_schedule(value)
    except (TypeError, ValueError) as error:
        raise error_about(what, error) from None


def as_hyperparameter(x: Any) -> Scalar | AbstractSchedule | PerParameter:
    """`x` in the form in which an optimizer keeps it."""
    if isinstance(x, PerParameter):
        return copied(x)
    if is_function(x):
        _check_arguments(x)
    if is_choice(x):
        return PerParameter(x)
    if isinstance(x, AbstractSchedule) or jtu.all_leaves([x]):
        return _number_or_schedule(x)
    return PerParameter(x)


def _check_arguments(function: Callable[..., Any]) -> None:
    needed = needed_arguments(function)
    if needed > 3:
        raise ValueError(
            "a schedule takes (step), and a per-parameter choice takes (path, array) "
            f"or (path, array, modules), but {function} needs {needed} arguments"
        )


@dataclasses.dataclass(frozen=True)
class HyperparameterIn:
    """A field converter: a hyperparameter whose numbers lie in an interval."""

    interval: Interval

    def __call__(self, x: Any) -> Any:
        return None if x is None else as_hyperparameter(x)

    def numbers(self, value: Any) -> Iterator[tuple[str, Scalar]]:
        """The numbers in a converted value, each with its place in it. A schedule's
        own numbers have ranges of their own."""
        tree = value.tree if isinstance(value, PerParameter) else value
        for path, leaf in jtu.tree_flatten_with_path(tree, is_leaf=_is_schedule)[0]:
            if not _is_schedule(leaf):
                yield jtu.keystr(path), leaf


def hyperparameter(interval: str, **options: Any) -> Any:
    """Declare a field of a transform that holds a live hyperparameter.

    The user gives a number, a schedule or a choice per parameter. Inside a rule,
    `self.name` is the scalar of this step and this parameter.

    **Arguments:**

    - `interval`: where its numbers must lie, as `"[0, 1)"`. Infinite ends take
        `"[0, inf)"`, or `"[0, inf]"` if infinity itself is allowed.
    - `options`: what a dataclass field takes, such as `default=0.9` and `kw_only=True`.
        A field that may be `None` has the type `OptionalHyperparameter`.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp, eqxopt
        >>> from eqxopt.rules import Hyperparameter, hyperparameter
        >>> class Descent(eqxopt.AbstractLeafwiseOptimizer):
        ...     learning_rate: Hyperparameter = hyperparameter("[0, inf)")
        ...
        ...     def init_leaf(self, param):
        ...         return ()
        ...
        ...     def update_leaf(self, t, grad, param, state):
        ...         return -self.learning_rate * grad, state
        >>> params = jnp.ones(2)
        >>> opt = Descent(eqxopt.schedules.Linear(0.5, 0.1, 100)).init(params)
        >>> print(opt.apply(params, params)[0])
        [0.5 0.5]

        ```
    """
    converter = HyperparameterIn(Interval(interval))
    metadata = {"like": "HyperparameterLike"}
    return eqx.field(converter=converter, metadata=metadata, **options)


def fix_choice(value: Any, parameters: Parameters, what: str) -> Any:
    """`value` with a choice by function replaced by what the function chooses."""
    if isinstance(value, PerParameter) and value.function is not None:
        return PerParameter(parameters.tree(value.at(parameters, what)))
    return value


def at_step(
    value: Scalar | AbstractSchedule, step: Int[Array, ""], what: str
) -> Scalar:
    """The scalar that a number or schedule gives at `step`."""
    if not isinstance(value, AbstractSchedule):
        if not eqx.is_array(value):
            raise TypeError(
                f"{what} is {value!r}, which is no array: change it by `opt.replace`"
            )
        return value
    try:
        scalar = value(step)
    except (TypeError, ValueError) as error:
        raise error_about(what, error) from error
    if jax.numpy.shape(scalar) != ():
        raise ValueError(
            f"{what}: a schedule must give a scalar, but it gave an array of shape "
            f"{jax.numpy.shape(scalar)}"
        )
    return scalar
