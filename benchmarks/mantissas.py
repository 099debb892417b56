"""How two moments in one word best share its bits: training with each split, beside
float32 from the same models and the same batches."""

import pathlib
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sklearn.datasets import load_digits

import eqxopt

from .quality.precision import classes, final_losses
from .report import draw_lines, markdown


DEFAULT = (5, 10)


@dataclass
class Splits:
    """The loss of each seed at the end: in float32 and by the bits of mantissa of the
    first and the second moment, each by the decay of the second."""

    wide: dict[float, list[float]]
    packed: dict[float, dict[tuple[int, int], list[float]]]

    def differences(self, decay: float, split: tuple[int, int]) -> list[float]:
        """From float32, for each seed, in percent."""
        pairs = zip(self.packed[decay][split], self.wide[decay])
        return [100 * (loss / exact - 1) for loss, exact in pairs]

    def table(self) -> str:
        name = r"loss, $\beta_2$ = "
        header = {"first and second": False} | {f"{name}{b2}": True for b2 in self.wide}
        each = [
            f"{statistics.mean(losses):.4f} ± {statistics.stdev(losses):.4f}"
            for losses in self.wide.values()
        ]
        rows = [["float32", *each]]
        for split in next(iter(self.packed.values())):
            row = ["{} and {} bits".format(*split)]
            for decay in self.packed:
                off = self.differences(decay, split)
                # Without the sign of what rounds to 0.
                mean = round(statistics.mean(off), 1) + 0.0
                row.append(f"{mean:+.1f} % ± {statistics.stdev(off):.1f} %")
            rows.append(row)
        return markdown(header, rows)

    def verdict(self) -> str:
        means = [statistics.mean(self.differences(x, DEFAULT)) for x in self.packed]
        largest = max(means, key=abs)
        return (
            "With {} and {} bits, the default, the loss differs from that of float32 "
            "by at most {:.1f} % on average."
        ).format(*DEFAULT, abs(largest))

    def rows(self) -> list[dict[str, Any]]:
        rows = []
        for decay, by_split in self.packed.items():
            both = {"float32": self.wide[decay]} | by_split
            rows += [
                {"b2": decay, "mantissas": split, "losses": losses}
                for split, losses in both.items()
            ]
        return rows

    def draw(self, output: pathlib.Path) -> None:
        panel = {
            "xlabel": "bits of mantissa of the second moment",
            "ylabel": "loss, % above float32",
        }
        lines = []
        for decay, by_split in self.packed.items():
            y = [statistics.mean(self.differences(decay, split)) for split in by_split]
            x = [second for _, second in by_split]
            lines.append({"x": x, "y": y, "marker": "o", "label": f"b2 = {decay}"})
        draw_lines([panel], [lines], output)


def mantissas(
    *,
    seeds: int = 5,
    steps: int = 1000,
    decays: Sequence[float] = (0.95, 0.99, 0.999),
    splits: Sequence[tuple[int, int]] = tuple((n, 15 - n) for n in range(3, 9)),
) -> Splits:
    """An MLP on digits. Moments of small parameters are packed, too."""
    task = classes(load_digits, 64, steps)

    def ends(decay: float, wrap: Callable[[Any], Any]) -> list[float]:
        decayed = lambda opt: wrap(opt.replace(b2=decay))
        return final_losses(task, decayed, False, seeds).tolist()

    def packed(split: tuple[int, int]) -> Callable[[Any], Any]:
        options = {"mantissas": split, "min_size": 1}
        return lambda opt: eqxopt.CompactState(opt, "packed", **options)

    return Splits(
        {decay: ends(decay, lambda opt: opt) for decay in decays},
        {
            decay: {split: ends(decay, packed(split)) for split in splits}
            for decay in decays
        },
    )
