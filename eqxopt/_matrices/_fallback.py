"""What trains the parameters that are no matrices."""

from collections.abc import Callable
from typing import Any, TYPE_CHECKING, TypeAlias

from .._abstract.optimizer import AbstractOptimizer
from .._optim.adam import AdamW
from .._tree import is_function


FallbackLike: TypeAlias = AbstractOptimizer | Callable[[Any], AbstractOptimizer] | None
"""What a fallback is set to: an optimizer, or a function that makes one from the
learning rate of the matrices. `None` is the default."""

if TYPE_CHECKING:

    class Fallback:
        """A field that is set to a `FallbackLike` and read as an optimizer."""

        def __get__(self, instance: object, owner: Any = None) -> AbstractOptimizer: ...
        def __set__(self, instance: object, value: FallbackLike) -> None: ...

else:
    Fallback: TypeAlias = AbstractOptimizer


def settle_fallback(optimizer: Any, share: float = 1.0) -> None:
    """Make the fallback of a new `optimizer` where only a function was given, or
    nothing: then AdamW at this share of the learning rate."""
    made = optimizer.fallback
    if made is None:
        made = AdamW(share * optimizer.learning_rate, b2=0.95, weight_decay=0.0)
    elif is_function(made):
        made = made(optimizer.learning_rate)
        if not isinstance(made, AbstractOptimizer):
            raise TypeError(
                f"`{type(optimizer).__name__}.fallback` must make an optimizer from "
                f"the learning rate, as `eqxopt.AdamW` does, but it returned {made!r}"
            )
    # Equinox lets nobody set a field after `__init__`, and here another one is read.
    object.__setattr__(optimizer, "fallback", made)
