"""The learning rates of `examples/digits.py`, each beside a third and three times of
it, in the loop of the example."""

import contextlib
import io
import math
import pathlib
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import matplotlib.pyplot as plt

from examples import digits

from ..report import GREY, HELD, in_grey, markdown, MISSED


FACTORS = (1 / 3, 1.0, 3.0)
# A loss of another rate that is below this part of the example's shows that the
# example's is a bad choice. Below the least loss, nothing is left to learn.
MUCH_BETTER, LEAST = 0.5, 0.01


@dataclass(frozen=True)
class Trained:
    """- `rate`: that of the example.
    - `losses`: the mean of the last epoch, for each factor.
    - `accuracies`: on held-out digits, the mean of the last five epochs.
    """

    rate: float
    losses: list[float]
    accuracies: list[float]

    @property
    def is_good(self) -> bool:
        low, own, high = self.losses
        lower = min((x for x in (low, high) if math.isfinite(x)), default=math.inf)
        return own <= max(LEAST, lower / MUCH_BETTER)


@dataclass(frozen=True)
class Rates:
    epochs: int
    trained: dict[str, Trained]

    def table(self) -> str:
        header = {"optimizer": False, "rate": True}
        for what in ("loss", "accuracy"):
            header |= {f"{what} at a third": True, f"{what}": True}
            header |= {f"{what} at three times": True}
        rows = [
            [name, f"{x.rate:g}"]
            + [f"{loss:.2g}" for loss in x.losses]
            + [f"{accuracy:.1%}" for accuracy in x.accuracies]
            for name, x in self.trained.items()
        ]
        return markdown(header, rows)

    def verdict(self) -> str:
        bad = [name for name, x in self.trained.items() if not x.is_good]
        low = min(self.trained, key=lambda name: self.trained[name].accuracies[1])
        return (
            f"{self.epochs} epochs, one seed. More than twice the loss of another "
            f"rate, and above {LEAST}: {', '.join(bad) or 'none'}. The lowest accuracy "
            f"is {self.trained[low].accuracies[1]:.1%}, of {low}."
        )

    def rows(self) -> list[dict[str, Any]]:
        every = self.trained.items()
        return [{"optimizer": name, **asdict(trained)} for name, trained in every]

    def draw(self, output: pathlib.Path) -> None:
        names = [*self.trained][::-1]
        figure, axes = plt.subplots(
            figsize=(8, 0.15 * len(names) + 1), layout="constrained"
        )
        places = range(len(names))
        labels = "a third of the rate", "the rate", "three times the rate"
        for i, (marker, label) in enumerate(zip("<o>", labels)):
            losses = [max(self.trained[name].losses[i], 1e-6) for name in names]
            colors = [
                (HELD if self.trained[name].is_good else MISSED) if i == 1 else GREY
                for name in names
            ]
            axes.scatter(losses, places, c=colors, marker=marker, s=12, label=label)
        axes.set(xscale="log", xlim=(None, 3), ylim=(-1, len(names)))
        axes.set_xlabel("training loss in the last epoch")
        axes.set_yticks(places, names, fontsize=6)
        axes.legend(labelcolor=GREY, frameon=False, fontsize=7)
        in_grey(axes)
        figure.savefig(output, transparent=True, metadata={"Date": None})
        plt.close(figure)


def rates(
    names: Iterable[str] | None = None, epochs: int = 30, batch_size: int = 32
) -> Rates:
    trained = {}
    for name in names or digits.RATES:
        rate, losses, accuracies = digits.RATES[name], [], []
        for factor in FACTORS:
            with contextlib.redirect_stderr(io.StringIO()):  # a bar for each
                _, every, scores = digits.train(
                    name, rate * factor, epochs, batch_size, 0
                )
            losses.append(float(f"{every[-(len(every) // epochs) :].mean():.4g}"))
            accuracies.append(round(statistics.mean(map(float, scores[-5:])), 4))
        trained[name] = Trained(rate, losses, accuracies)
        print(name, trained[name], flush=True)
    return Rates(epochs, trained)
