"""What a schedule is, the plainest ones, and arithmetic with schedules."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Int

from .._number import (
    check_fields,
    copied,
    is_default,
    Number,
    number,
    NumberLike,
    NumbersMeta,
    show_value,
)
from .._tree import is_function
from .._types import Scalar


Step: TypeAlias = Int[Array, ""] | Scalar | int | float


class AbstractSchedule(eqx.Module, metaclass=NumbersMeta):
    """A value that moves with the number of updates made.

    A schedule is called with the count of updates made so far, so the first update sees
    0. Its numbers are array fields, also those that count steps: they can be changed
    without recompiling, batched with `jax.vmap` and differentiated. Add, subtract and
    multiply schedules with each other, with numbers and with functions of the step.
    """

    # NumPy then leaves an operator with one of its numbers on the left to the schedule.
    __array_ufunc__ = None

    @abc.abstractmethod
    def __call__(self, step: Step) -> Scalar:
        """The value at `step`."""

    def __check_init__(self) -> None:
        check_fields(self)

    def __repr__(self) -> str:
        """The class with its numbers, those left out that have their defaults."""
        fields = [(f, getattr(self, f.name)) for f in dataclasses.fields(self)]
        shown = [f"{f.name}={show_value(x)}" for f, x in fields if not is_default(f, x)]
        return f"{type(self).__name__}({', '.join(shown)})"

    def __add__(self, other: "ScheduleLike") -> "Sum":
        return Sum(self, other)

    def __radd__(self, other: "ScheduleLike") -> "Sum":
        return Sum(other, self)

    def __sub__(self, other: "ScheduleLike") -> "Sum":
        return Sum(self, Product(-1.0, other))

    def __rsub__(self, other: "ScheduleLike") -> "Sum":
        return Sum(other, Product(-1.0, self))

    def __mul__(self, other: "ScheduleLike") -> "Product":
        return Product(self, other)

    def __rmul__(self, other: "ScheduleLike") -> "Product":
        return Product(other, self)

    def __neg__(self) -> "Product":
        return Product(-1.0, self)


ScheduleLike: TypeAlias = AbstractSchedule | NumberLike | Callable[..., Any]


class Constant(AbstractSchedule):
    """The same value at every step.

    **Arguments:** `value`: that value.
    """

    value: Number = number("(-inf, inf)")

    def __call__(self, step: Step) -> Scalar:
        return self.value


class Custom(AbstractSchedule):
    """A schedule from a plain function of the step. Wherever a schedule is accepted, so
    is such a function: it is wrapped for you. The function is a static field, so
    numbers inside it are compiled in.

    **Arguments:**

    - `function`: takes the step, an int32 scalar, and returns a scalar. Inside
        [`Join`][eqxopt.schedules.Join], whose boundaries may be fractions, it is a
        float.

    **Raises:** when it is called, a `TypeError` if the function gives no real number,
    and a `ValueError` if it gives an array.

    !!! example

        ```pycon
        >>> from eqxopt import schedules
        >>> halving = schedules.Custom(lambda step: 0.1 * 0.5**step)
        >>> print(halving(2))
        0.025

        ```
    """

    function: Callable[..., Scalar | float] = eqx.field(static=True)

    def __call__(self, step: Step) -> Scalar:
        given = self.function(step)
        if not eqx.is_array_like(given) or jnp.iscomplexobj(given):
            raise TypeError(
                f"a schedule must give a scalar, but {self.function} gave {given!r}"
            )
        value = jnp.asarray(given, dtype=float)
        if value.shape != ():
            raise ValueError(
                f"a schedule must give a scalar, but {self.function} gave an array of "
                f"shape {value.shape}"
            )
        return value


def as_schedule(x: ScheduleLike) -> AbstractSchedule:
    """`x` as a schedule with its own buffers, so that one can be given twice."""
    if isinstance(x, AbstractSchedule):
        return copied(x)
    other: Any = x
    return Custom(other) if is_function(other) else Constant(other)


class Sum(AbstractSchedule):
    """The sum of two schedules. You write it `left + right`, or `left - right`.

    **Arguments:** `left`, `right`: schedules, numbers or functions of the step.
    """

    left: AbstractSchedule = eqx.field(converter=as_schedule)
    right: AbstractSchedule = eqx.field(converter=as_schedule)

    def __call__(self, step: Step) -> Scalar:
        return self.left(step) + self.right(step)


class Product(AbstractSchedule):
    """The product of two schedules. You write it `left * right`. It scales a schedule
    by a number, or gives it the warm-up or the cool-down of another.

    **Arguments:** `left`, `right`: schedules, numbers or functions of the step.

    !!! example

        ```pycon
        >>> from eqxopt import schedules
        >>> warmup = schedules.Linear(0.0, 1.0, transition_steps=10)
        >>> rate = 0.1 * warmup * schedules.ExponentialDecay(1.0, 100, 0.5)
        >>> print(*(f"{rate(step):.3f}" for step in (0, 10, 100)))
        0.000 0.093 0.050

        ```
    """

    left: AbstractSchedule = eqx.field(converter=as_schedule)
    right: AbstractSchedule = eqx.field(converter=as_schedule)

    def __call__(self, step: Step) -> Scalar:
        return self.left(step) * self.right(step)
