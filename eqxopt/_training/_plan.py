"""What a sweep was asked for."""

import dataclasses
from collections.abc import Callable
from typing import Any

from jaxtyping import Array, PRNGKeyArray

from ._compiled_step import CompiledStep
from ._source import Source


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a sweep was asked for."""

    loss_fn: Callable[..., Any]
    program: CompiledStep
    source: Callable[[PRNGKeyArray, int], Source]
    """Where the batches of a run come from, given its key and its first step."""
    keys: Array
    """A random key for each seed."""
    takes_key: bool
    models: tuple[Any, Any]
    """The models of all seeds along a first axis, and their states."""
    evaluate: Callable[..., Any] | None
    maximize: bool
    has_aux: bool
    residuals: bool
    ends: list[int]
    """The numbers of steps after which points are compared."""
    keep: float
    chunk_size: int | None
    steps_per_call: int
    progress: bool

    @property
    def seeds(self) -> int:
        return len(self.keys)
