"""The learning rate of what is wrapped."""

from typing import Any

from .._abstract.optimizer import AbstractOptimizer, AbstractTransform, inner_transforms
from .._abstract.rules import rules
from .._tree import Parameters
from .._types import Scalar


def learning_rates(
    wrapper: AbstractTransform,
    optimizer: AbstractOptimizer,
    parameters: Parameters,
    remedy: str,
) -> list[Scalar]:
    """The learning rate of each parameter in the next step of `optimizer`."""
    rate: Any = with_learning_rate(wrapper, optimizer, remedy)
    return [rule.learning_rate for rule in rules(rate, parameters)]


def with_learning_rate(
    wrapper: AbstractTransform, optimizer: AbstractOptimizer, remedy: str
) -> AbstractTransform:
    """The one transform in `optimizer`, however deep, that has the learning rate.

    The `ValueError` raised if there is none, or several, says that `wrapper` needs it,
    and ends with `remedy`.
    """
    found = _having_learning_rate(optimizer)
    if len(found) != 1:
        has = "several learning rates" if found else "no learning rate"
        name = type(wrapper).__name__
        inside = f"put `{name}` inside, around each of them, or " if found else ""
        raise ValueError(
            f"`{name}`: `{type(optimizer).__name__}` has {has}, where one is needed: "
            f"{inside}{remedy}"
        )
    return found[0]


def _having_learning_rate(transform: AbstractTransform) -> list[AbstractTransform]:
    if getattr(transform, "learning_rate", None) is not None:
        return [transform]
    inner = inner_transforms(transform).values()
    return [one for x in inner for one in _having_learning_rate(x)]
