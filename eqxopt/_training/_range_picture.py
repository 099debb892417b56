"""The picture of a range test: losses over rates."""

from typing import Any, TYPE_CHECKING

import numpy as np

from ._pictures import figure_of, GREY, in_grey, legend


if TYPE_CHECKING:
    from ._range_result import RangeTest


def drawn(result: "RangeTest") -> Any:
    figure, (axes,) = figure_of(1)
    axes.plot(result.rates, result.losses, color=GREY, linewidth=0.8, alpha=0.6)
    axes.plot(result.rates, result.smoothed, linewidth=1.8, label="smoothed")
    if result.suggestion is not None:
        label = f"suggestion: {result.suggestion:.2g}"
        axes.axvline(
            result.suggestion,
            color="#ef5350",
            linewidth=1.2,
            linestyle="--",
            label=label,
        )
    if len(result.smoothed):
        # Losses after the divergence would hide the fall.
        low, high = np.min(result.smoothed), np.max(result.smoothed)
        margin = 0.25 * (high - low) or 0.1 * abs(high) or 1.0
        axes.set_ylim(low - margin, high + margin)
    axes.set(xlabel="learning rate", ylabel="loss", xscale="log")
    in_grey(axes)
    legend(axes)
    return figure
