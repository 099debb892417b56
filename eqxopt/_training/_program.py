"""The program of a loss function, made anew where that may have changed."""

import warnings
from collections.abc import Callable
from typing import Any

from .._compile.captured import Closure
from .._compile.closures import Reader
from ._compiled_step import CompiledStep


def read_now(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, to be compiled with what it reads now: another one than before where
    that has changed, or may have."""
    now = Reader(function).now()
    return now if isinstance(now, Closure) else lambda *args: function(*args)


class ProgramOf:
    """Gives the compiled step to use for a loss function, and the function itself with
    what it reads now as arguments of the program."""

    def __init__(
        self,
        loss_fn: Callable[..., Any],
        lasting: CompiledStep,
        new: Callable[[], CompiledStep],
        caller: str,
    ):
        self._loss_fn = Reader(loss_fn)
        self._lasting = lasting
        self._new = new
        self._caller = caller
        self._made_anew = 0

    def now(self) -> tuple[CompiledStep, Callable[..., Any]]:
        loss_fn = self._loss_fn.now()
        if isinstance(loss_fn, Closure):
            return self._lasting, loss_fn
        self._made_anew += 1
        if self._made_anew == 2:
            warnings.warn(
                f"{self._caller} compiles anew again and again, because the loss "
                "function reads something that may change unseen. Give that to the "
                "loss function as an argument, or wrap the function that reads it in "
                "`jax.jit`, which takes it as it is now.",
                stacklevel=4,
            )
        return self._new(), loss_fn
