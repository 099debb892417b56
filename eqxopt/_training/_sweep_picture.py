"""The picture of a sweep: scores, and the losses of the best."""

from typing import Any, TYPE_CHECKING

import numpy as np

from ._pictures import figure_of, GREY, in_grey, legend
from ._points import shown, spread


if TYPE_CHECKING:
    from ._sweep_result import Sweep


# So many lines can be told apart.
_LINES = 8
# Losses of so many of the best points are drawn.
_BEST = 5


def drawn(sweep: "Sweep") -> Any:
    varying = [name for name in sweep.points[0] if len(_values(sweep, name)) > 1]
    numeric = [name for name in varying if _is_numeric(sweep, name)]
    figure, (scores, losses) = figure_of(2)
    if len(numeric) == len(varying) == 2:
        image = _map(sweep, scores, *varying)
        bar = figure.colorbar(image, ax=scores, extend="both")
        bar.ax.tick_params(colors=GREY)
    elif numeric:
        _lines(sweep, scores, numeric[0], [x for x in varying if x != numeric[0]])
    else:
        _list(sweep, scores, varying)
    _losses(sweep, losses, varying)
    for axes in (scores, losses):
        in_grey(axes)
    return figure


def _values(sweep: "Sweep", name: str) -> list[Any]:
    """Those that are different."""
    found = []
    for point in sweep.points:
        if point[name] not in found:
            found.append(point[name])
    return found


def _is_numeric(sweep: "Sweep", name: str) -> bool:
    return all(type(point[name]) in (int, float) for point in sweep.points)


def _scale(values: list[Any]) -> str:
    return "log" if min(values) > 0 and max(values) > 30 * min(values) else "linear"


def _mean(sweep: "Sweep") -> tuple[np.ndarray, np.ndarray]:
    return np.mean(sweep.score, axis=1), spread(sweep.score)


def _limits(sweep: "Sweep", mean: np.ndarray) -> tuple[float, float]:
    """From the best score to the worst, or to where it is bad enough: points that
    diverged would hide all else."""
    finite = mean[np.isfinite(mean)]
    if not len(finite):
        return 0.0, 1.0
    best = float(mean[sweep.order[0]])
    bad = best + 4 * (float(np.median(finite)) - best)
    return min(best, max(np.min(finite), bad)), max(best, min(np.max(finite), bad))


def _lines(sweep: "Sweep", axes: Any, name: str, others: list[str]) -> None:
    """A line of scores for each choice of the others, with the spread over seeds."""
    mean, std = _mean(sweep)
    lines: dict[str, list[int]] = {}
    for i in sweep.order:  # so the best are among those that are drawn
        label = shown({x: sweep.points[i][x] for x in others})
        lines.setdefault(label, []).append(int(i))
    for label, points in [*lines.items()][:_LINES]:
        points = sorted(points, key=lambda i: sweep.points[i][name])
        x = [sweep.points[i][name] for i in points]
        (line,) = axes.plot(x, mean[points], marker=".", linewidth=1.2, label=label)
        if sweep.score.shape[1] > 1:
            low, high = mean[points] - std[points], mean[points] + std[points]
            axes.fill_between(x, low, high, color=line.get_color(), alpha=0.2)
    low, high = _limits(sweep, mean)
    margin = 0.1 * (high - low) or 1.0
    axes.set(xlabel=name, ylabel="score", xscale=_scale(_values(sweep, name)))
    axes.set_ylim(low - margin, high + margin)
    if others:
        legend(axes)


def _map(sweep: "Sweep", axes: Any, first: str, second: str) -> Any:
    """Scores over two numbers."""
    mean, _ = _mean(sweep)
    low, high = _limits(sweep, mean)
    x, y = ([point[name] for point in sweep.points] for name in (first, second))
    columns, rows = sorted(set(x)), sorted(set(y))
    if len(columns) * len(rows) == len(sweep.points):
        grid = np.full((len(rows), len(columns)), np.nan)
        for value, i, j in zip(mean, map(rows.index, y), map(columns.index, x)):
            grid[i, j] = value
        image = axes.imshow(grid, aspect="auto", origin="lower", vmin=low, vmax=high)
        every = max(1, len(columns) // 5)
        ticks = range(0, len(columns), every)
        axes.set_xticks(ticks, [f"{columns[i]:.2g}" for i in ticks])
        axes.set_yticks(range(len(rows)), [f"{value:.2g}" for value in rows])
    else:
        image = axes.scatter(x, y, c=mean, vmin=low, vmax=high)
        axes.set(xscale=_scale(x), yscale=_scale(y))
    axes.set(xlabel=first, ylabel=second, title="score")
    return image


def _list(sweep: "Sweep", axes: Any, varying: list[str]) -> None:
    mean, std = _mean(sweep)
    best = sweep.order[: 4 * _BEST][::-1]
    labels = [shown({x: sweep.points[i][x] for x in varying}) for i in best]
    axes.errorbar(mean[best], range(len(best)), xerr=std[best], fmt="o", markersize=4)
    axes.set_yticks(range(len(best)), labels)
    axes.set(xlabel="score")


def _losses(sweep: "Sweep", axes: Any, varying: list[str]) -> None:
    """Each the mean over seeds, and over a fiftieth of the steps."""
    steps = sweep.loss.shape[2]
    width = max(1, steps // 50)
    for i in sweep.order[:_BEST]:
        made = sweep.steps[i] // width * width
        loss = np.mean(sweep.loss[i, :, :made], axis=0).reshape(-1, width).mean(axis=1)
        label = shown({name: sweep.points[i][name] for name in varying})
        x = width * np.arange(len(loss)) + (width - 1) / 2
        axes.plot(x, loss, linewidth=1.2, label=label)
    positive = np.nanmin(sweep.loss[sweep.order[:_BEST]], initial=np.inf) > 0
    axes.set(xlabel="step", ylabel="loss", yscale="log" if positive else "linear")
    legend(axes)
