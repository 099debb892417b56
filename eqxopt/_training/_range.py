"""What the losses of a range test show."""

from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Float

from ._range_result import RangeTest


Losses = Float[np.ndarray, " steps"]

# The suggestion as a share of the rate with the lowest loss.
SHARE = 0.5
# A fall is one if it is so many times what noise alone would make of it.
_SIGNIFICANT = 4.0


class Ramp:
    """The rates of a range test, and how its losses are judged."""

    def __init__(
        self, low: float, high: float, steps: int, smoothing: float, divergence: float
    ):
        self.low, self.high, self.steps = low, high, steps
        self.divergence = divergence
        # The weight of a loss falls by this factor from one step to the next.
        width = smoothing * (steps - 1) / np.log10(high / low)
        self.decay = float(np.exp(-1 / width)) if width > 0 else 0.0

    def rates(self, n: int) -> Losses:
        exponents = np.arange(n) / (self.steps - 1)
        return self.low * (self.high / self.low) ** exponents

    def judged(self, losses: Losses, stopped: str | None) -> RangeTest:
        """The result of a run. `stopped` is what ended it from outside."""
        watch = Watch(self.decay, self.divergence)
        n = next((i for i in range(len(losses)) if watch.ends(losses[i])), None)
        if n is not None:
            stopped = watch.ended
            losses = losses[: n + (stopped == "divergence")]
        rates = self.rates(len(losses))
        smoothed = _smoothed(_capped(losses, self.decay), self.decay)
        suggestion, how = self._concluded(rates, losses, smoothed, stopped)
        for array in (rates, losses, smoothed):
            array.flags.writeable = False
        return RangeTest(rates, losses, smoothed, suggestion, how, stopped)

    def _concluded(
        self, rates: Losses, losses: Losses, smoothed: Losses, stopped: str | None
    ) -> tuple[float | None, str]:
        end = self._end(len(rates), stopped)
        diverged = stopped in ("divergence", "nonfinite")
        more = f"`low={self.low:.3g}` may be too high" if diverged else _MORE[stopped]
        lowest = int(np.argmin(smoothed)) if len(smoothed) else 0
        if not _fell(losses, smoothed, lowest, self.decay):
            return None, f"{end}. Its loss did not fall by more than noise: {more}."
        if not diverged and lowest > len(rates) - 1 - steps_in(self.decay):
            return None, f"{end}. Its loss had not risen again: {more}."
        at = rates[lowest]
        if SHARE * at < self.low:
            return None, (
                f"{end}. Its loss was lowest at the rate {at:.2g} already: lower "
                f"`low={self.low:.3g}`."
            )
        return float(SHARE * at), (
            f"It is half of {at:.2g}, the rate at which the smoothed loss was lowest. "
            f"{end}."
        )

    def _end(self, n: int, stopped: str | None) -> str:
        """A sentence about the end of a run after `n` losses."""
        if stopped is None:
            return f"The run reached the highest rate, {self.high:.3g}"
        rate = self.rates(n + 1)[n - 1 if stopped == "divergence" else n]
        what = {
            "divergence": "The run diverged",
            "nonfinite": "The run had an infinite or NaN loss",
            "batches": "The run had no more batches",
        }.get(stopped, f"The run was stopped by {stopped}")
        return f"{what} at the rate {rate:.2g}, after {n} of {self.steps} steps"


# What a run that did not diverge needs to show more.
_MORE = {
    None: "`high` may be too low",
    "batches": "give more batches, such as `itertools.cycle(batches)`",
    "SIGINT": "let it go on",
    "SIGTERM": "let it go on",
}


def steps_in(decay: float) -> float:
    """About how many steps a moving average is over."""
    return 1 / (1 - decay)


class Watch:
    """Says when a run ends, one loss after the other."""

    def __init__(self, decay: float, divergence: float):
        self.ended: str | None = None
        self._mean = Mean(decay)
        # The mean of the first few losses may be low by chance.
        self._ignored = max(steps_in(decay), 5)
        self._divergence = divergence
        self._count = 0
        self._best = np.inf
        self._highest = self._highest_before = -np.inf

    def ends(self, loss: float) -> bool:
        if not np.isfinite(loss):
            self.ended = "nonfinite"
            return True
        mean = self._mean.after(loss)
        self._highest = max(self._highest, loss)
        self._count += 1
        if self._count >= self._ignored and mean < self._best:
            self._best, self._highest_before = mean, self._highest
        # A multiple of a loss says little if it is near 0 or below.
        scale = max(abs(self._best), self._highest_before - self._best)
        if mean > self._best + self._divergence * scale:
            self.ended = "divergence"
        return self.ended is not None


class Mean:
    """A moving average, corrected for its start."""

    def __init__(self, decay: float):
        self._decay = decay
        self._sum = self._weight = 0.0

    def after(self, x: float) -> float:
        self._sum = self._decay * self._sum + x
        self._weight = self._decay * self._weight + 1
        return self._sum / self._weight


def _smoothed(losses: Losses, decay: float) -> Losses:
    """The mean at each step over all steps, with weights that fall on both sides. At
    the last step it is the moving average."""
    total = _both_sides(losses, decay)
    return total / _both_sides(np.ones_like(losses), decay)


def _both_sides(x: Losses, decay: float) -> Losses:
    before, after = (np.array([*_sums(side, decay)]) for side in (x, x[::-1]))
    return before + after[::-1] - x


def _sums(x: Iterable[float], decay: float) -> Iterator[float]:
    total = 0.0
    for one in x:
        total = decay * total + one
        yield total


def _capped(losses: Losses, decay: float) -> Losses:
    """Losses no higher than those until their moving average was lowest."""
    if not len(losses):
        return losses
    mean = Mean(decay)
    lowest = np.argmin([mean.after(x) for x in losses])
    return np.minimum(losses, np.max(losses[: lowest + 1]))


def _fell(losses: Losses, smoothed: Losses, lowest: int, decay: float) -> bool:
    """Whether the smoothed losses fell by more than noise makes them."""
    if len(losses) < 3:
        return False
    # Second differences know little of the trend, and their median little of the end.
    # That of normal noise is 1.65 of its standard deviation.
    second = np.diff(losses[: max(lowest, 2) + 1], 2)
    noise = np.median(np.abs(second)) / 1.65
    # The mean on both sides is one of so many losses, and at the start of a half.
    count = (1 + decay) ** 3 / ((1 - decay) * (1 + decay**2))
    error = noise * np.sqrt(3 / count)
    return bool(smoothed[0] - smoothed[lowest] > _SIGNIFICANT * error)
