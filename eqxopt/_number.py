"""Numbers as array fields: conversion to scalar arrays, and the ranges they keep."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, get_args, overload, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from ._types import Scalar


T = TypeVar("T")
Number = Scalar
NumberLike = float | int | np.number[Any] | np.ndarray | Array
Numbers = Float[Array, "_"]
NumbersLike = Sequence[NumberLike] | np.ndarray | Array


def as_number(x: NumberLike) -> Number:
    """`x` as a scalar array of the default float dtype, in a buffer of its own.

    Its own, because an optimizer may be donated. Concrete also under `jax.jit` if `x`
    is, because ranges are checked there too.
    """
    if isinstance(x, bool) or not eqx.is_array_like(x):
        raise TypeError(f"expected a real number or a scalar array, got {x!r}")
    if jnp.iscomplexobj(x):
        raise TypeError(f"expected a real number, got the complex {x}")
    if np.shape(x) != ():
        raise ValueError(
            f"expected a scalar, got an array of shape {np.shape(x)}. To train one "
            "model per value, build the optimizer inside `jax.vmap`."
        )
    return _own(x, float)


def as_numbers(x: NumbersLike) -> Numbers:
    """`x` as a 1-d array of the default float dtype, in a buffer of its own."""
    if isinstance(x, Sequence) and not isinstance(x, str):
        numbers = [as_number(number) for number in x]
        if any(isinstance(number, Tracer) for number in numbers):
            return jnp.stack(numbers)
        return _own(np.asarray(numbers, dtype=float), float)
    if not eqx.is_array_like(x) or isinstance(x, bool) or jnp.iscomplexobj(x):
        raise TypeError(f"expected real numbers or a 1-d array of them, got {x!r}")
    if np.ndim(x) != 1:
        raise ValueError(
            f"expected a 1-d array of numbers, got one of shape {np.shape(x)}"
        )
    return _own(x, float)


def copied(tree: T) -> T:
    """`tree` with its arrays in buffers of their own, as `as_number` has them."""
    return jtu.tree_map(lambda x: _own(x) if eqx.is_array(x) else x, tree)


def _own(x: Any, dtype: Any = None) -> Array:
    if isinstance(x, Tracer):
        return jnp.asarray(x, dtype=dtype)
    with jax.ensure_compile_time_eval():
        return jnp.array(x, dtype=dtype, copy=True)


@dataclasses.dataclass(frozen=True)
class Interval:
    """An interval in the usual notation, such as `"[0, 1)"`."""

    text: str

    def __contains__(self, x: np.ndarray) -> bool:
        low, high = (float(end) for end in self.text[1:-1].split(","))
        above = x >= low if self.text[0] == "[" else x > low
        below = x <= high if self.text[-1] == "]" else x < high
        return bool(np.all(above & below))


@dataclasses.dataclass(frozen=True)
class NumberIn:
    """A field converter: a number in an interval, kept as a scalar array."""

    interval: Interval

    @overload
    def __call__(self, x: None) -> None: ...
    @overload
    def __call__(self, x: NumberLike) -> Number: ...
    def __call__(self, x: Any) -> Any:
        return None if x is None else as_number(x)

    def numbers(self, value: Number) -> Iterator[tuple[str, Number]]:
        """The numbers in a converted value, each with its place in it."""
        yield "", value


@dataclasses.dataclass(frozen=True)
class NumbersIn:
    """A field converter: numbers in an interval, kept as a 1-d array."""

    interval: Interval

    def __call__(self, x: NumbersLike) -> Numbers:
        return as_numbers(x)

    def numbers(self, value: Numbers) -> Iterator[tuple[str, Number]]:
        """The numbers in a converted value, each with its place in it."""
        if not isinstance(value, Tracer):
            yield from ((f"[{i}]", x) for i, x in enumerate(np.asarray(value)))


real_number = NumberIn(Interval("(-inf, inf)"))
positive_number = NumberIn(Interval("(0, inf)"))
nonnegative_number = NumberIn(Interval("[0, inf)"))
proportion = NumberIn(Interval("[0, 1]"))
real_numbers = NumbersIn(Interval("(-inf, inf)"))
nonnegative_numbers = NumbersIn(Interval("[0, inf)"))


def check_ranges(module: eqx.Module) -> None:
    """Raises a `ValueError` for a number outside its field's interval, and a
    `TypeError` for a `None` where the field has none. Numbers that
    are not known yet, inside `jax.jit` or `jax.vmap`, pass."""
    for field in dataclasses.fields(module):
        converter: Any = field.metadata.get("converter")
        interval = getattr(converter, "interval", None)
        value = getattr(module, field.name)
        if interval is None:
            continue
        if value is None:
            if type(None) not in get_args(field.type):
                raise TypeError(
                    f"`{type(module).__name__}({field.name}=None)`: `{field.name}` "
                    "must be given"
                )
            continue
        for place, number in converter.numbers(value):
            if isinstance(number, Tracer):
                continue
            if np.asarray(number) not in interval:
                raise ValueError(
                    f"`{type(module).__name__}({field.name}={number!s})`: "
                    f"`{field.name}`{place and f' at {place}'} must lie in "
                    f"{interval.text}."
                )


def check_increasing(module: eqx.Module, *names: str) -> None:
    """Raises a `ValueError` unless the numbers in these fields, one after the other,
    increase. Numbers that are not known yet pass."""
    values = [getattr(module, name) for name in names]
    if any(isinstance(value, Tracer) for value in values):
        return
    if np.any(np.diff(np.concatenate([np.atleast_1d(v) for v in values])) <= 0):
        given = ", ".join(f"{name}={value!s}" for name, value in zip(names, values))
        what = " < ".join(f"`{name}`" for name in names)
        raise ValueError(
            f"`{type(module).__name__}({given})`: "
            + (f"{what} must hold." if len(names) > 1 else f"{what} must increase.")
        )


def check_counts(module: eqx.Module, *names: str) -> None:
    """Raises a `ValueError` unless these fields are integers of at least 1."""
    for name in names:
        count = getattr(module, name)
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(
                f"`{type(module).__name__}({name}={count})`: `{name}` must be an "
                "integer of at least 1."
            )
