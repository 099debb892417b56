"""What a range test found."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float


class RangeTest(NamedTuple):
    """What [`range_test`][eqxopt.range_test] found, in arrays with one entry a rate."""

    rates: Float[np.ndarray, " steps"]
    """The rates, up to the one at which the run ended."""
    losses: Float[np.ndarray, " steps"]
    """The losses, each before the step with its rate."""
    smoothed: Float[np.ndarray, " steps"]
    """The losses averaged over the rates on both sides. A loss that is higher than all
    before the fall counts as no higher than these, so that the rise at the end does not
    hide the lowest point."""
    suggestion: float | None
    """The rate to begin with, or `None` if the losses do not show one."""
    how: str
    """How the suggestion was found, or what to change if there is none."""
    stopped: str | None
    """What ended the run before its last step: `"divergence"`, `"nonfinite"`,
    `"batches"` if there were no more, `"SIGINT"`, `"SIGTERM"`, or `None`."""

    def draw(self) -> Any:
        """A picture of the losses over the rates, with the suggestion. It needs
        matplotlib.

        **Returns:** a `matplotlib.figure.Figure`.
        """
        from ._range_picture import drawn

        return drawn(self)

    def __repr__(self) -> str:
        found = "none" if self.suggestion is None else f"{self.suggestion:.2g}"
        return f"Suggested learning rate: {found}. {self.how}"
