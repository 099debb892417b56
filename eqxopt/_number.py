"""Numbers as array fields: conversion to scalar arrays, and the ranges they keep."""

import dataclasses
from collections.abc import Iterator
from typing import Any, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float


Number = Float[Array, ""]
NumberLike = float | int | np.number[Any] | np.ndarray | Array


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
    if isinstance(x, Tracer):
        return jnp.asarray(x, dtype=float)
    with jax.ensure_compile_time_eval():
        return jnp.array(x, dtype=float, copy=True)


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

    def __call__(self, x: NumberLike) -> Number:
        return as_number(x)

    def numbers(self, value: Number) -> Iterator[tuple[str, Number]]:
        """The numbers in a converted value, each with its place in it."""
        yield "", value


real_number = NumberIn(Interval("(-inf, inf)"))
positive_number = NumberIn(Interval("(0, inf)"))
nonnegative_number = NumberIn(Interval("[0, inf)"))


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
