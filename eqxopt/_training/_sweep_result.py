"""What a sweep found."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from .._abstract.optimizer import AbstractOptimizer
from ._points import Make, optimizer_at, Point, shown_value, spread
from ._population import Population


class Sweep:
    """What [`sweep`][eqxopt.sweep] found. `print` shows it as a table, best first."""

    points: list[Point]
    """The points, in the order of the arrays."""
    score: Float[np.ndarray, "points seeds"]
    """The last score of each run. It is NaN for runs that were not scored."""
    loss: Float[np.ndarray, "points seeds steps"]
    """The losses, each before its step. They are NaN for steps that were not made."""
    aux: dict[str, Float[np.ndarray, "points seeds steps"]]
    """The named scalars that the loss function gave beside the loss."""
    steps: Int[np.ndarray, " points"]
    """How many steps the runs of each point have made."""
    best: Point | None
    """The point with the best mean score of those that came to the end, or `None` if
    none has."""
    model: Any
    """The model of the best run of the best point."""
    opt: AbstractOptimizer | None
    """The optimizer of that run."""
    state: Any
    """The state of that run. `fit` can go on with the three."""
    seconds: float
    """How long the sweep took, compiling included."""
    programs: int
    """How many programs it needed."""
    side_by_side: int
    """The most runs in one call of a program."""
    bytes_per_run: int
    """What one run may need of memory, at most."""
    stopped: str | None
    """What ended the sweep before its end: `"SIGINT"`, `"SIGTERM"`, or `None`."""

    def __init__(self, points: list[Point], make: Make, population: Population):
        self._make = make
        self._population = population
        self._maximize = population.maximize
        self.points = points
        self.score = population.score.copy()
        self.loss = population.loss.copy()
        self.aux = {name: x.copy() for name, x in population.aux.items()}
        self.steps = population.steps.copy()
        self.best = None if population.best is None else points[population.best]
        self.model, self.opt, self.state = population.trained or (None, None, None)
        self.seconds = population.seconds
        self.programs = population.programs
        self.side_by_side = population.side_by_side
        self.bytes_per_run = population.bytes_per_run
        self.stopped = population.stopped

    @property
    def optimizer(self) -> AbstractOptimizer:
        """A new optimizer with the hyperparameters of the best point."""
        if self.best is None:
            raise ValueError("`Sweep`: no point has made all its steps")
        return optimizer_at(self._make, self.best)

    def resume(self) -> "Sweep":
        """Goes on with a sweep that was stopped. The results are those of a sweep that
        was not, bit for bit."""
        self._population.go()
        return Sweep(self.points, self._make, self._population)

    @property
    def order(self) -> Int[np.ndarray, " points"]:
        """The points from the best to the worst: first those that made more steps, and
        then by their mean scores."""
        mean = np.mean(self.score, axis=1)
        worth = np.where(np.isfinite(mean), -mean if self._maximize else mean, np.inf)
        return np.lexsort((worth, -self.steps))

    def table(self, rows: int = 10) -> str:
        """The best points as a table."""
        halved = len(set(self.steps.tolist())) > 1
        header = [*self.points[0], "score"]
        header += ["± std"] * (self.score.shape[1] > 1) + ["steps"] * halved
        lines = [header]
        std = spread(self.score)
        for i in self.order[:rows]:
            values = self.score[i]
            line = [shown_value(x) for x in self.points[i].values()]
            line.append(f"{np.mean(values):.4g}")
            if len(values) > 1:
                line.append(f"{std[i]:.2g}")
            lines.append(line + [str(self.steps[i])] * halved)
        widths = [max(map(len, column)) for column in zip(*lines)]
        shown_lines = [
            "  ".join(x.rjust(width) for x, width in zip(line, widths)).rstrip()
            for line in lines
        ]
        left = len(self.points) - rows
        return "\n".join(shown_lines + [f"and {left} more points"] * (left > 0))

    def __repr__(self) -> str:
        count, seeds, steps = self.loss.shape
        ended = "" if self.stopped is None else f", stopped by {self.stopped}"
        programs = "one program" if self.programs == 1 else f"{self.programs} programs"
        return (
            f"{count * seeds} runs of {steps} steps in {self.seconds:.1f} s: "
            f"{programs}, up to {self.side_by_side} runs side by side, at most "
            f"{_shown_bytes(self.bytes_per_run)} each{ended}\n{self.table()}"
        )

    def draw(self) -> Any:
        """A picture: scores over one or two hyperparameters, with the spread over
        seeds, and the losses of the best points.

        **Returns:** a `matplotlib.figure.Figure`.
        """
        from ._sweep_picture import drawn

        return drawn(self)


def _shown_bytes(count: float | int) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
