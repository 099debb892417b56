"""Gradients multiplied by a function of a norm."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import PyTree

from .._dtype import compute_dtype
from .._tree import Parameters
from .._types import AnyLeaf, Scalar
from .optimizer import AbstractTransform
from .rules import gradients


Gradients = list[AnyLeaf | None]


@runtime_checkable
class Factor(Protocol):
    """A transform as one parameter sees it, which scales by what this gives."""

    def factor(self, norm: Scalar) -> Scalar: ...


def wide_gradients(
    transform: AbstractTransform, grads: PyTree, parameters: Parameters
) -> Gradients:
    """The gradient of each parameter in the dtype in which rules compute for it."""
    return [
        None if grad is None else grad.astype(compute_dtype(param.dtype))
        for grad, param in zip(
            gradients(transform, grads, parameters), parameters.arrays
        )
    ]


def rescaled(
    rules: Sequence[Factor], grads: Gradients, norms: Sequence[Scalar | None]
) -> Gradients:
    """Each gradient times the factor that its rule makes of its norm."""
    # Usually all share one rule and one norm, and so one factor.
    factors: dict[tuple[int, int], Scalar] = {}
    updates: Gradients = []
    for rule, grad, norm in zip(rules, grads, norms):
        if grad is None or norm is None:
            updates.append(None)
            continue
        key = id(rule), id(norm)
        if key not in factors:
            factors[key] = rule.factor(norm)
        updates.append(factors[key].astype(grad.dtype) * grad)
    return updates
