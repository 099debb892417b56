"""What pictures have in common."""

from typing import Any


# Readable on a light page and on a dark one.
GREY = "#808080"


def figure_of(panels: int) -> tuple[Any, list[Any]]:
    """A figure of panels side by side, which no global state knows of."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "pictures need matplotlib: `pip install matplotlib`"
        ) from error
    figure = Figure(figsize=(4.5 * panels, 3.4), layout="constrained")
    every = figure.subplots(1, panels, squeeze=False)[0]
    return figure, [*every]


def in_grey(axes: Any) -> None:
    axes.tick_params(which="both", colors=GREY)
    for label in (axes.xaxis.label, axes.yaxis.label, axes.title):
        label.set_color(GREY)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(GREY)


def legend(axes: Any, **options: Any) -> None:
    axes.legend(frameon=False, labelcolor=GREY, fontsize=8, **options)
