"""From a factor for a norm to a transform."""

import abc
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp

from .._compile.once import once_per_shape
from .._dtype import compute_dtype, real_dtype, widest_real_dtype
from .._math import global_norm, plus_one, stable_norm
from .._tree import Parameters, replace_fields
from .._types import AnyLeaf, Leaf, Leaves, Scalar, Self
from .rules import begun, rules
from .step import Step
from .transform import AbstractTransform, count_of


class AbstractRescaling(AbstractTransform):
    """A transform that multiplies gradients by a function of their norm.

    A subclass is its hyperparameters and `factor`. With a field or class attribute
    `per_parameter` each gradient has its own norm, and otherwise all share the global
    one.
    """

    per_parameter: eqx.AbstractVar[bool]
    norm: Scalar | None = eqx.field(default=None, init=False)
    """The global norm of the last gradients before they were rescaled; 0 before the
    first update; `None` before `init` and where each parameter has its own."""

    @abc.abstractmethod
    def factor(self, norm: Scalar) -> Scalar:
        """What gradients of this norm are multiplied by."""

    def start(self, parameters: Parameters) -> Self:
        dtype = widest_real_dtype(parameters.arrays)
        norm = None if self.per_parameter else jnp.zeros((), dtype)
        return replace_fields(begun(self, parameters), kept=(), norm=norm)

    def advance(self, step: Step) -> tuple[Leaves, Self]:
        parameters = step.parameters
        new = replace_fields(self, count=plus_one(count_of(self)))
        grads = wide_gradients(step)
        every_rule = rules(replace_fields(self, norm=None), parameters)
        if self.per_parameter:
            norms = [None if grad is None else stable_norm(grad) for grad in grads]
            return _rescaled(every_rule, grads, norms), new
        norm = global_norm(grad for grad in grads if grad is not None)
        # Keep the dtype that `init` chose, even if the widest parameter has no gradient
        # in this step.
        kept = norm.astype(widest_real_dtype(parameters.arrays))
        updates = _rescaled(every_rule, grads, [norm] * len(grads))
        return updates, replace_fields(new, norm=kept)


def wide_gradients(step: Step) -> Leaves:
    """The gradient of each parameter in the dtype in which rules compute for it."""
    return [
        None if grad is None else grad.astype(compute_dtype(param.dtype))
        for grad, param in zip(step.grads, step.parameters.arrays)
    ]


@once_per_shape
def _scaled(grad: Leaf, factor: Scalar) -> Leaf:
    return factor.astype(real_dtype(grad.dtype)) * grad


def _rescaled(
    every_rule: Sequence[Any], grads: Leaves, norms: Sequence[Scalar | None]
) -> Leaves:
    """Each gradient times the factor that its rule makes of its norm."""
    # Usually all share one rule and one norm, and so one factor.
    factors: dict[tuple[int, int], Scalar] = {}

    def scale(rule: Any, grad: AnyLeaf | None, norm: Scalar | None) -> AnyLeaf | None:
        if grad is None or norm is None:
            return None
        key = id(rule), id(norm)
        if key not in factors:
            factors[key] = rule.factor(norm)
        return _scaled(grad, factors[key])

    return [scale(*each) for each in zip(every_rule, grads, norms)]
