"""Bounds: numbers or arrays between which the entries of parameters stay."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TYPE_CHECKING, TypeAlias

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PyTree

from .._number import as_real_array, copied, Interval, NumberLike, show_value
from .._schedule.abstract import AbstractSchedule
from .._tree import choose, is_choice, is_function, Parameters


Bound: TypeAlias = Float[Array, "..."]


class PerParameterBound(eqx.Module):
    """A bound that differs from parameter to parameter: a function of the parameter's
    path and array, or a tree that is a prefix of the model. `None` in either is no
    bound."""

    tree: PyTree[Bound]
    function: Callable[..., Any] | None = eqx.field(static=True)

    def __init__(self, choice: PyTree | Callable[..., Any]):
        if is_function(choice):
            self.tree, self.function = None, choice
        else:
            self.tree, self.function = jtu.tree_map(as_real_array, choice), None

    def __repr__(self) -> str:
        if self.function is not None:
            return show_value(self.function)
        shown = [f"{place}: {show_value(x)}" for place, x in bounds_by_path(self)]
        return (
            f"({', '.join(shown[:3] + [f'{len(shown) - 3} more'][: len(shown) > 3])})"
        )

    def at(self, parameters: Parameters, what: str) -> list[Bound | None]:
        """The bound of each parameter."""
        if self.function is None:
            return choose(self.tree, parameters, what, is_leaf=lambda x: x is None)
        chosen = choose(self.function, parameters, what)
        return [None if x is None else as_real_array(x) for x in chosen]


BoundLike: TypeAlias = (
    NumberLike
    | Callable[..., Any]
    | PerParameterBound
    | Mapping
    | tuple
    | list
    | eqx.Module
)
"""What a bound is set to: a number, an array of the parameter's shape, or a choice of
these per parameter, which is a function of the path and the array or a tree that is a
prefix of the model."""

if TYPE_CHECKING:

    class OptionalBound:
        """A field that is set to a `BoundLike` or `None`."""

        def __get__(
            self, instance: object, owner: Any = None
        ) -> Bound | PerParameterBound | None: ...
        def __set__(self, instance: object, value: BoundLike | None) -> None: ...

else:
    OptionalBound: TypeAlias = Bound | PerParameterBound | None


@dataclasses.dataclass(frozen=True)
class BoundIn:
    """A field converter: a bound, kept as an array or a choice of arrays."""

    interval: Interval

    def __call__(self, x: Any) -> Any:
        if x is None:
            return None
        if isinstance(x, PerParameterBound):
            return copied(x)
        if isinstance(x, AbstractSchedule) or (is_function(x) and not is_choice(x)):
            raise TypeError(
                "a bound is a number, an array, a tree of these or a function of "
                "(path, array), and no schedule. To move it, call `opt.replace` "
                "between steps"
            )
        if is_function(x) or not jtu.all_leaves([x]):
            return PerParameterBound(x)
        return as_real_array(x)

    def numbers(self, value: Any) -> Iterator[tuple[str, Bound]]:
        """The arrays in a converted value, each with its place in it."""
        yield from bounds_by_path(value)


def bound(**options: Any) -> Any:
    """Declare a field that holds a bound of parameters.

    It is live: a bound changed by `replace` recompiles nothing.
    """
    converter = BoundIn(Interval("[-inf, inf]"))
    metadata = {"like": "BoundLike"}
    return eqx.field(converter=converter, metadata=metadata, **options)


def bounds_by_path(value: Any) -> list[tuple[str, Bound]]:
    """The arrays of a field, with the places that they speak for."""
    tree = value.tree if isinstance(value, PerParameterBound) else value
    return [(jtu.keystr(path), x) for path, x in jtu.tree_flatten_with_path(tree)[0]]


def bounds_of(value: Any, parameters: Parameters, what: str) -> list[Bound | None]:
    """The bound of each parameter, known to fit: a number or an array of its shape."""
    if isinstance(value, PerParameterBound):
        bounds = value.at(parameters, what)
    else:
        bounds = [value] * len(parameters)
    for i, (x, param) in enumerate(zip(bounds, parameters.arrays)):
        if x is None:
            continue
        if x.shape not in ((), param.shape):
            raise ValueError(
                f"{what}, for {parameters.path(i)}: a bound is a number or an array of "
                f"the parameter's shape, {param.shape}, not of shape {x.shape}"
            )
        if jnp.iscomplexobj(param):
            raise TypeError(
                f"{what}, for {parameters.path(i)}: a complex parameter "
                f"({param.dtype}) is neither above nor below a bound. Keep its real "
                "and imaginary part as two parameters, or give it the bound `None`."
            )
    return bounds


def fix_bound(value: Any, parameters: Parameters, what: str) -> Any:
    """`value` with a choice by function replaced by what the function chooses."""
    if isinstance(value, PerParameterBound) and value.function is not None:
        return PerParameterBound(parameters.tree(value.at(parameters, what)))
    return value


def check_order(
    name: str, low: Bound | None, high: Bound | None, names: tuple[str, str], path: str
) -> None:
    """Raises a `ValueError` if `low` is anywhere above `high`. These are the fields
    `names` of the class `name`. Numbers that are not known yet pass."""
    if low is None or high is None:
        return
    if isinstance(low, Tracer) or isinstance(high, Tracer):
        return
    if () not in (low.shape, high.shape) and low.shape != high.shape:
        return  # which `bounds_of` says
    lows, highs = np.broadcast_arrays(np.asarray(low), np.asarray(high))
    above = lows > highs
    if np.any(above):
        raise ValueError(
            f"`{name}`: `{names[0]}` must not be above `{names[1]}`, but"
            f"{path and f' for {path}'} {lows[above][0]} is above {highs[above][0]}"
        )
