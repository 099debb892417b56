"""What line searches have in common."""

import abc
import dataclasses
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree

from .._fields import at_step, HyperparameterIn, PerParameter
from .._number import check_fields
from .._tree import replace_fields
from .._types import Scalar, Self


class Point(NamedTuple):
    """A point on the line $f(\\theta + \\eta d)$: $\\eta$, and the loss and its slope
    there."""

    step_size: Scalar
    value: Scalar
    slope: Scalar

    def is_finite(self) -> Bool[Array, ""]:
        return jnp.isfinite(self.value) & jnp.isfinite(self.slope)


# The loss at a step size, and a function that gives the slope and the gradients there.
Line: TypeAlias = Callable[
    [Scalar],
    tuple[Scalar, Callable[[], tuple[Scalar, PyTree]]],
]


class AbstractLineSearch(eqx.Module):
    """Chooses how far to go in a direction, by looking at the loss along it."""

    def __check_init__(self) -> None:
        check_fields(self)

    @abc.abstractmethod
    def search(
        self, line: Line, start: Point, grads: PyTree, previous: Scalar
    ) -> tuple[Point, PyTree, Int[Array, ""]]:
        """The point chosen, the gradients there, and how often the loss was evaluated.

        `start` is the point at 0, whose slope should be negative, `grads` are the
        gradients there, and `previous` is the step size of the last search. If no point
        is lower than `start`, it is `start` that is chosen. Every hyperparameter of
        `self` is the scalar of this step, in the dtype of the loss.
        """

    def at_step(self, count: Int[Array, ""], dtype: jnp.dtype) -> Self:
        """This search with every hyperparameter as the scalar of this step."""
        scalars = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            converter = field.metadata.get("converter")
            if not isinstance(converter, HyperparameterIn) or value is None:
                continue
            what = f"`{type(self).__name__}.{field.name}`"
            if isinstance(value, PerParameter):
                raise TypeError(
                    f"{what} is one number for the whole model, or a schedule: it "
                    "cannot be chosen for each parameter"
                )
            scalars[field.name] = at_step(value, count, what).astype(dtype)
        return replace_fields(self, **scalars)
