"""What a training run recorded."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int


class History(NamedTuple):
    """What [`fit`][eqxopt.fit] recorded, one entry a step.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp, eqxopt
        >>> x = jnp.ones(())
        >>> opt = eqxopt.SGD(0.25).init(x)
        >>> loss_fn = lambda x, target: (x - target) ** 2
        >>> *_, history = eqxopt.fit(loss_fn, x, opt, [jnp.zeros(())] * 2)
        >>> print(history.loss, history.step)
        [1.   0.25] [0 1]

        ```
    """

    loss: Float[np.ndarray, " steps"]
    """The losses, each before its step."""
    step: Int[np.ndarray, " steps"]
    """The number of steps that the optimizer had made before."""
    aux: dict[str, Float[np.ndarray, " steps"]]
    """The named scalars that the loss function gave beside the loss."""
    stopped: str | None
    """What ended the run before its last step: `"callback"`, `"SIGINT"`, `"SIGTERM"`,
    `"nonfinite"`, or `None`."""


class Recorder:
    """Collects a history. Its arrays grow in place, so a look at them costs nothing."""

    def __init__(self, first_step: int):
        self.first_step = first_step
        self.steps = 0
        # By name; the losses have none.
        self._columns: dict[str, np.ndarray] = {}
        self.stopped: str | None = None

    def add(self, n: int, loss: np.ndarray, aux: dict[str, np.ndarray]) -> None:
        """The first `n` entries of each array. What has no value in a step is NaN."""
        given, needed = {"": loss, **aux}, self.steps + n
        for name in self._columns | given:
            values = given.get(name, np.full(n, np.nan))
            before = np.full(self.steps, np.nan) if self.steps else values[:0]
            column = self._columns.get(name, before)
            dtype = np.promote_types(column.dtype, values.dtype)
            if len(column) < needed or column.dtype != dtype:
                grown = np.empty(max(1024, 2 * needed), dtype)
                grown[: self.steps] = column[: self.steps]
                self._columns[name] = column = grown
            column[self.steps : needed] = values[:n]
        self.steps = needed

    def history(self) -> History:
        return History(
            loss=self._column(""),
            step=self.first_step + np.arange(self.steps),
            aux={k: self._column(k) for k in self._columns if k},
            stopped=self.stopped,
        )

    def _column(self, name: str) -> np.ndarray:
        view: Any = self._columns.get(name, np.zeros(0))[: self.steps]
        view.flags.writeable = False
        return view
