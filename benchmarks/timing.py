"""Times of ours and the peer's, taken in turns in one process."""

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax


@dataclass(frozen=True)
class Figure:
    """Median times in milliseconds, their ratio, and the bar the ratio must keep."""

    what: str
    ours: float
    peer: float
    bar: float | None = None
    bytes_moved: int | None = None

    @property
    def gigabytes_a_second(self) -> float:
        return (self.bytes_moved or 0) / self.ours / 1e6

    @property
    def ratio(self) -> float:
        return self.ours / self.peer

    @property
    def holds(self) -> bool:
        return self.bar is None or self.ratio <= self.bar


def interleaved(
    what: str,
    ours: Callable[[], Any],
    peer: Callable[[], Any],
    *,
    bar: float | None = None,
    per: int = 1,
    bytes_moved: int | None = None,
    repeats: int = 20,
    warm_up: int = 2,
    before: Callable[[], Any] = lambda: None,
) -> Figure:
    """The medians of `repeats` runs of each, after `warm_up` runs that do not count.

    `before` runs before each, outside the measured time. Who goes first alternates.
    The garbage of the one is collected before the other is measured. Where a run makes
    many steps, the times are divided by how many, `per`.
    """
    times: dict[Callable[[], Any], list[float]] = {ours: [], peer: []}
    gc.freeze()  # what was there before is not looked through again and again
    for i in range(warm_up + repeats):
        for run in (ours, peer) if i % 2 else (peer, ours):
            before()
            gc.collect()
            start = time.perf_counter()
            jax.block_until_ready(run())
            elapsed = time.perf_counter() - start
            if i >= warm_up:
                times[run].append(1000 * elapsed)
    gc.unfreeze()
    medians = [statistics.median(times[run]) / per for run in (ours, peer)]
    return Figure(what, *medians, bar, bytes_moved)
