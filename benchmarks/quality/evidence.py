"""What the results of all pairs come to: tables and pictures."""

import pathlib
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from ..report import GREY, in_grey, markdown, show
from .optimizers import CONTENDERS
from .protocol import places


BASE = "AdamW"
# What a run that does not reach a loss counts with, in its length.
PENALTY = 2.0
# A loss counts as at most so many times as large or small, lest one task decide.
FARTHEST = 10.0
# These are drawn on every task, and in the other pictures.
SHOWN = ("AdamW", "SGD, momentum 0.9", "Lion", "Muon", "SOAP", "Prodigy")
SHOWN += ("ScheduleFreeAdamW",)


@dataclass(frozen=True)
class Pair:
    """An optimizer on a task, beside AdamW there.

    A loss that is not finite counts as that of the untrained model.
    """

    task: dict[str, Any]
    base: dict[str, Any]
    own: dict[str, Any]

    def losses(self) -> list[float]:
        untrained = self.task["untrained_loss"]
        return [untrained if x is None else x for x in self.own["loss"]]

    @property
    def loss_ratio(self) -> float:
        base = Pair(self.task, self.base, self.base)
        return statistics.mean(self.losses()) / statistics.mean(base.losses())

    @property
    def steps_to_base(self) -> float | None:
        """The steps to the loss that AdamW ends with, both as means over the seeds and
        over the last twentieth of the steps."""
        target = self.base["curve"][-1]
        curve = [np.inf if x is None else x for x in self.own["curve"]]
        steps = places(self.task["steps"]) + 1
        if target is None:
            return None
        for i, loss in enumerate(curve):
            if loss <= target:
                if i == 0 or not np.isfinite(curve[i - 1]) or loss <= 0:
                    return float(steps[i])
                # Losses fall like powers, so we interpolate their logarithms.
                part = np.log(curve[i - 1] / target) / np.log(curve[i - 1] / loss)
                return float(steps[i - 1] + part * (steps[i] - steps[i - 1]))
        return None

    @property
    def steps_ratio(self) -> float:
        """To the steps that AdamW takes there."""
        steps = self.steps_to_base
        own = PENALTY * self.task["steps"] if steps is None else steps
        base = Pair(self.task, self.base, self.base).steps_to_base
        return own / (base or self.task["steps"])

    @property
    def time_ratio(self) -> float:
        """Of a step."""
        return self.own["seconds_a_step"] / self.base["seconds_a_step"]

    @property
    def seconds_ratio(self) -> float:
        """Of the time to that loss."""
        return self.steps_ratio * self.time_ratio

    @property
    def state(self) -> float:
        """Bytes of state for a byte of parameters."""
        return self.own["state_bytes"] / self.task["bytes"]

    @property
    def held_out(self) -> list[float]:
        return [np.nan if x is None else x for x in self.own["held_out"]]

    @property
    def beats_base(self) -> bool:
        own, base = np.mean(self.held_out), np.mean(self._base_held_out)
        return bool(own > base if self.task["larger_is_better"] else own < base)

    @property
    def _base_held_out(self) -> list[float]:
        return Pair(self.task, self.base, self.base).held_out

    @property
    def tolerance(self) -> int:
        """How many numbers of the grid give at most twice the lowest loss."""
        found = [x for x in self.own["tuning"] if x is not None]
        return sum(x <= 2 * min(found) for x in found)

    def tuning_ratio(self, i: int) -> float:
        """The loss at a number of the grid, over AdamW's at its best."""
        loss = self.own["tuning"][i]
        best = min(x for x in self.base["tuning"] if x is not None)
        ratio = (self.task["untrained_loss"] if loss is None else loss) / best
        return float(np.clip(ratio, 1 / FARTHEST, FARTHEST))

    def at_the_edge(self, grid: list[float]) -> bool:
        ends = grid[0], grid[-1]
        return len(self.own["tuning"]) > 1 and self.own["number"] in ends


def mean(pairs: Iterable[Pair], of: Callable[[Pair], float]) -> float:
    """Geometric."""
    tiny = np.finfo(float).tiny
    return float(np.exp(np.mean([np.log(max(of(pair), tiny)) for pair in pairs])))


def bounded_loss_ratio(pair: Pair) -> float:
    return float(np.clip(pair.loss_ratio, 1 / FARTHEST, FARTHEST))


class Evidence:
    """The summary over all tasks, in the order of the losses."""

    def __init__(self, results: dict[str, Any]):
        self.results = results
        self.tasks: dict[str, dict[str, Any]] = results["tasks"]
        self.pairs: dict[str, dict[str, Pair]] = {name: {} for name in CONTENDERS}
        self.not_run: dict[str, dict[str, str]] = {}
        for key, own in results["pairs"].items():
            task, name = own["task"], own["optimizer"]
            base = results["pairs"].get(f"{task} | {BASE}")
            if "not_run" in own:
                self.not_run.setdefault(name, {})[task] = own["not_run"]
            elif base is not None:
                self.pairs[name][task] = Pair(self.tasks[task], base, own)
        self.pairs = {name: pairs for name, pairs in self.pairs.items() if pairs}

    @property
    def order(self) -> list[str]:
        """Those that are for any loss, best first, and then those that need more."""
        special = lambda name: CONTENDERS[name].needs in ("exact loss", "residuals")
        by_loss = lambda name: mean(self.pairs[name].values(), bounded_loss_ratio)
        return sorted(self.pairs, key=lambda name: (special(name), by_loss(name)))

    def table(self) -> str:
        header = {"optimizer": False, "tasks": True, "loss": True, "steps": True}
        header |= {"seconds": True, "reached": True, "better held out": True}
        header |= {"time of a step": True, "state": True, "good numbers": True}
        header |= {"one number for all": True}
        return markdown(header, [self._row(name) for name in self.order])

    def _row(self, name: str) -> list[str]:
        pairs = [*self.pairs[name].values()]
        reached = sum(pair.steps_to_base is not None for pair in pairs)
        tuned = CONTENDERS[name].number is not None
        good = statistics.mean(pair.tolerance for pair in pairs)
        return [
            name,
            str(len(pairs)),
            f"{mean(pairs, bounded_loss_ratio):.2f}",
            f"{mean(pairs, lambda x: x.steps_ratio):.2f}",
            f"{mean(pairs, lambda x: x.seconds_ratio):.2f}",
            str(reached),
            "" if name == BASE else str(sum(pair.beats_base for pair in pairs)),
            f"{mean(pairs, lambda x: x.time_ratio):.2f}",
            f"{statistics.mean(pair.state for pair in pairs):.1f}",
            f"{good:.1f}" if tuned else "",
            "{1:.2f} at {0:.2g}".format(*self.common(name)) if tuned else "",
        ]

    def common(self, name: str) -> tuple[float, float]:
        """The number of the grid with which the loss is lowest over all tasks, and that
        loss as a ratio to AdamW's, tuned for each task. On the seeds of tuning."""
        grid = self.results["settings"]["numbers"]
        ratios = [
            mean(self.pairs[name].values(), lambda pair: pair.tuning_ratio(i))  # noqa: B023
            for i in range(len(grid))
        ]
        best = int(np.argmin(ratios))
        return grid[best], ratios[best]

    def verdict(self) -> str:
        grid = self.results["settings"]["numbers"]
        every = [pair for pairs in self.pairs.values() for pair in pairs.values()]
        missing = sum(map(len, self.not_run.values()))
        edges = sum(pair.at_the_edge(grid) for pair in every)
        return (
            f"{len(self.pairs)} optimizers, {len(self.tasks)} tasks, {len(every)} "
            f"pairs. {missing} more pairs make no sense and were not run. In {edges} "
            "pairs the best number is at an end of the grid."
        )

    def rows(self) -> list[dict[str, Any]]:
        return [*self.results["pairs"].values()]

    def draw(self, output: pathlib.Path) -> None:
        """The ratio of losses of each pair, as a colour."""
        names, tasks = self.order, [*self.tasks]
        ratios = np.full((len(names), len(tasks)), np.nan)
        for i, name in enumerate(names):
            for task, pair in self.pairs[name].items():
                ratio = max(pair.loss_ratio, 1e-30)
                ratios[i, tasks.index(task)] = np.log10(ratio)
        figure, axes = plt.subplots(
            figsize=(8, 0.17 * len(names) + 1.8), layout="constrained"
        )
        image = axes.imshow(ratios, aspect="auto", cmap="RdBu_r", vmin=-1, vmax=1)
        for row, column in np.argwhere(np.isnan(ratios)):
            axes.text(column, row, "–", color=GREY, ha="center", va="center")
        axes.set_xticks(range(len(tasks)), tasks, rotation=30, ha="left", fontsize=7)
        axes.xaxis.tick_top()
        axes.set_yticks(range(len(names)), names, fontsize=7)
        bar = figure.colorbar(image, shrink=0.4, ticks=[-1, 0, 1], extend="both")
        bar.ax.set_yticklabels(["a tenth", "as AdamW", "ten times"], color=GREY)
        bar.ax.tick_params(colors=GREY, labelsize=7)
        in_grey(axes)
        axes.tick_params(length=0)
        figure.savefig(output, transparent=True, metadata={"Date": None})
        plt.close(figure)

    def on_task(self, task: str) -> str:
        """A table of all optimizers on one task, best first."""
        description = self.tasks[task]
        grid = self.results["settings"]["numbers"]
        pairs = {name: p[task] for name, p in self.pairs.items() if task in p}
        header = {"optimizer": False, "number": True, "loss at the end": True}
        header |= {"steps": True, "seconds": True, description["metric"]: True}
        header |= {"ms a step": True, "bytes of state": True}
        rows = []
        for name in sorted(pairs, key=lambda name: pairs[name].loss_ratio):
            pair, own = pairs[name], pairs[name].own
            steps = pair.steps_to_base
            tuned = CONTENDERS[name].number is not None
            number = f"{own['number']:.2g}" if tuned else ""
            seconds = None if steps is None else steps * own["seconds_a_step"]
            diverged = sum(x is None for x in own["loss"])
            row = [
                name,
                number + ", at the end" * pair.at_the_edge(grid),
                _spread(pair.losses()) + f", {diverged} diverged" * (diverged > 0),
                "" if steps is None else f"{steps:.0f}",
                "" if seconds is None else f"{seconds:.2g}",
                _spread(pair.held_out),
                f"{1e3 * own['seconds_a_step']:.2g}",
                f"{own['state_bytes']:,}",
            ]
            rows.append(row)
        return f"{_sentence(description)}\n\n{markdown(header, rows)}"

    def reasons(self) -> str:
        """Why pairs were not run."""
        found: dict[str, dict[str, list[str]]] = {}
        for name, tasks in self.not_run.items():
            for task, reason in tasks.items():
                found.setdefault(reason, {}).setdefault(task, []).append(name)
        rows = []
        for reason, by_task in found.items():
            tasks = ", ".join(by_task)
            names = {name: None for names in by_task.values() for name in names}
            rows.append([", ".join(names), tasks, reason])
        header = {"optimizers": False, "tasks": False, "reason": False}
        return markdown(header, rows)

    def draw_numbers(self, output: pathlib.Path) -> None:
        """The loss against the number, on the seeds that it was chosen on."""
        grid = self.results["settings"]["numbers"]
        self._panels(output, "number of the grid", lambda _, own: (grid, own["tuning"]))

    def draw_curves(self, output: pathlib.Path) -> None:
        """The loss against the steps, on the other seeds."""
        steps = lambda task: places(task["steps"]) + 1
        self._panels(output, "steps", lambda task, own: (steps(task), own["curve"]))

    def _panels(self, output: pathlib.Path, label: str, line: Any) -> None:
        """A panel for each task, with one legend."""
        rows = -(-len(self.tasks) // 3)
        figure, every = plt.subplots(
            rows, 3, figsize=(10, 2.3 * rows), layout="constrained", squeeze=False
        )
        drawn = {}
        for axes in every.flat[len(self.tasks) :]:
            axes.axis("off")
        for axes, (task, description) in zip(every.flat, self.tasks.items()):
            for i, name in enumerate(SHOWN):
                pair = self.pairs.get(name, {}).get(task)
                if pair is not None:
                    x, y = line(description, pair.own)
                    y = [np.nan if value is None else value for value in y]
                    (drawn[name],) = axes.plot(x, y, f"C{i}", linewidth=1.2)
            low, high = axes.get_ylim()
            top = 2 * description["untrained_loss"]
            axes.set(title=task, yscale="log", ylim=(None, min(high, top)))
            axes.title.set_fontsize(9)
            axes.tick_params(which="both", labelsize=7)
            if label != "steps":
                axes.set_xscale("log")
            in_grey(axes)
        for axes in every[-1]:
            axes.set_xlabel(label)
        figure.legend(
            drawn.values(),
            drawn,
            loc="outside lower center",
            ncols=len(SHOWN),
            labelcolor=GREY,
            frameon=False,
            fontsize=8,
        )
        figure.savefig(output, transparent=True, metadata={"Date": None})
        plt.close(figure)


def _spread(values: list[float]) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.3g} ± {spread:.1g}"


def _sentence(task: dict[str, Any]) -> str:
    batch = task["batch_size"]
    batches = "" if batch is None else f", in batches of {batch}"
    what = task["what"][0].upper() + task["what"][1:]
    return (
        f"{what}: {task['parameters']:,} parameters, {task['steps']} steps{batches}. "
        f"The loss of an untrained model is {task['untrained_loss']:.3g}."
    )


def write(evidence: Evidence, folder: pathlib.Path) -> None:
    """All that the documentation shows."""
    folder.mkdir(parents=True, exist_ok=True)
    show("evidence", evidence, folder)
    start = folder / "benchmarks-evidence"
    for task in evidence.tasks:
        name = task.replace(",", "").replace(" ", "-").lower()
        _file(start, f"-{name}.md").write_text(evidence.on_task(task) + "\n")
    _file(start, "-not-run.md").write_text(evidence.reasons() + "\n")
    evidence.draw_numbers(_file(start, "-numbers.svg"))
    evidence.draw_curves(_file(start, "-curves.svg"))


def _file(start: pathlib.Path, end: str) -> pathlib.Path:
    return start.with_name(start.name + end)
