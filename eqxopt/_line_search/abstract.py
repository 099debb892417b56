"""What line searches have in common."""

import abc
import dataclasses
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree

from .._abstract.nested import FieldsMeta
from .._abstract.show import show_search
from .._fields import at_step, HyperparameterIn, PerParameter
from .._number import check_fields
from .._tree import replace_fields
from .._types import Scalar, Self


class Point(NamedTuple):
    r"""A point on the line $f(\theta + \eta d)$: $\eta$, the loss and its slope."""

    step_size: Scalar
    value: Scalar
    slope: Scalar

    def is_finite(self) -> Bool[Array, ""]:
        return jnp.isfinite(self.value) & jnp.isfinite(self.slope)


Line: TypeAlias = Callable[[Scalar], tuple[Scalar, Callable[[], tuple[Scalar, PyTree]]]]
"""Gives the loss at a step size, and a function for the slope and the gradients there.
They cost more, and not every trial needs them."""
Found: TypeAlias = tuple[Point, PyTree, Int[Array, ""]]
"""The point that a search chose, the gradients there, and the number of evaluations."""


class AbstractLineSearch(eqx.Module, metaclass=FieldsMeta):
    """Chooses how far to go in a direction, by looking at the loss along it."""

    def __check_init__(self) -> None:
        check_fields(self)

    def __repr__(self) -> str:
        return show_search(self)

    @abc.abstractmethod
    def search(
        self, line: Line, start: Point, grads: PyTree, previous: Scalar
    ) -> Found:
        """The point chosen, or `start` if no point is lower.

        `start` is the point at 0, whose slope should be negative, `grads` are the
        gradients there, and `previous` is the step size of the last search. Every
        hyperparameter of `self` is the scalar of this step, in the dtype of the loss.
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
