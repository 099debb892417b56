"""The runs of a sweep: how far each has come, and which go on."""

import math
import time
import warnings
from collections import deque
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ._batches import Iterated
from ._chunks import Chunk, Drawn
from ._group import Group, Part
from ._lanes import Lanes, split
from ._plan import Plan
from ._points import Stack
from ._progress import shown_progress
from ._run import Pace
from ._source import Source
from ._step import Carry
from ._stop import Stop


Show = Callable[[int, float], None]


class Population:
    """All runs, and what is known of them."""

    def __init__(self, plan: Plan, stacks: list[Stack], count: int):
        self._plan = plan
        steps = plan.ends[-1]
        self.score = np.full((count, plan.seeds), np.nan)
        self.loss = np.full((count, plan.seeds, steps), np.nan)
        self.aux: dict[str, np.ndarray] = {}
        self.steps = np.zeros(count, int)
        self.seconds = 0.0
        self.stopped: str | None = None
        self.best: int | None = None
        self.trained: Carry | None = None
        self._rung = 0
        self._pace = Pace(plan.steps_per_call)
        started = time.perf_counter()
        # An iterable is gone through once, by all runs at the same time.
        source = plan.source(plan.keys[0], 0)
        self._shared = source if isinstance(source, Iterated) else None
        self._ahead: deque[tuple[Chunk, int]] = deque()
        chunk, _ = self._pulled(source)
        last = math.ceil(count * plan.keep ** (len(plan.ends) - 1))
        self.groups = [Group(plan, stack, chunk, last) for stack in stacks]
        self.seconds += time.perf_counter() - started
        self.programs = len(stacks)
        self.maximize = plan.maximize
        self.bytes_per_run = max(group.nbytes for group in self.groups)
        self.side_by_side = max(len(part.rows) for _, part in self.parts)

    @property
    def parts(self) -> list[tuple[Group, Part]]:
        return [(group, part) for group in self.groups for part in group.parts]

    def go(self) -> None:
        """Train until the end or a signal."""
        started = time.perf_counter()
        self.stopped = None
        with shown_progress(self._left(), self._plan.progress) as show, Stop() as stop:
            while self._rung < len(self._plan.ends):
                end = self._plan.ends[self._rung]
                if self._shared is None:
                    self._each(end, stop, show)
                else:
                    self._together(self._shared, end, stop, show)
                if stop.requested is not None:
                    self.stopped = stop.requested
                    break
                self._rung += 1
                if self._rung < len(self._plan.ends):
                    self._select()
        self.seconds += time.perf_counter() - started

    def _each(self, end: int, stop: Stop, show: Show) -> None:
        """Part by part, up to a number of steps."""
        for group, part in self.parts:
            sources = [self._plan.source(key, part.done) for key in self._plan.keys]
            while part.done < end:
                if stop.requested is not None:
                    return
                n = self._pace.steps(end - part.done)
                chunks = [chunk for x in sources for chunk, _ in x.take(n, stop)]
                drawn = [x.rows for x in chunks if isinstance(x, Drawn)]
                stacked = np.stack(jax.device_get(drawn)) if drawn else None
                rows = jax.device_put(stacked)
                self._call(group, part, chunks[0], rows, n, show)
            self._finish(group, part)

    def _together(self, source: Iterated, end: int, stop: Stop, show: Show) -> None:
        """All parts, batch by batch, up to a number of steps."""
        done = self.parts[0][1].done
        while done < end:
            if stop.requested is not None:
                return
            if not self._ahead:
                if source.error is not None:
                    raise source.error
                self._ahead.extend(source.take(self._pace.steps(end - done), stop))
            if not self._ahead and source.ended:
                warnings.warn(
                    f"`sweep` made {done} of {self._plan.ends[-1]} steps: there were "
                    "no more batches",
                    stacklevel=4,
                )
                self._rung = len(self._plan.ends)
                break
            if self._ahead:
                chunk, n = self._ahead.popleft()
                for group, part in self.parts:
                    self._call(group, part, chunk, None, n, show)
                done += n
        for group, part in self.parts:
            self._finish(group, part)

    def _pulled(self, source: Source) -> tuple[Chunk, int]:
        """A first batch, which is kept for the first step if there is only one run
        through the batches."""
        with Stop() as stop:
            chunks = list(source.take(1, stop))
        if isinstance(source, Iterated):
            if source.error is not None:
                raise source.error
            if not chunks:
                raise ValueError("`sweep`: there is no batch")
            self._ahead.extend(chunks)
        return chunks[0]

    def _call(
        self, group: Group, part: Part, chunk: Chunk, rows: Any, n: int, show: Show
    ) -> None:
        plan = self._plan
        if part.carry is None:
            part.carry = group.started(part)
        keys = plan.keys if plan.takes_key else None
        seeds = jax.device_put(part.seeds)
        args = (group.lanes, plan.loss_fn, keys, seeds, chunk, rows)
        part.carry, out = plan.program(part.carry, (*args, jax.device_put(np.int32(n))))
        loss, aux = jax.device_get(out)
        now = slice(part.done, part.done + n)
        count = len(part.points)
        for name, values in {"": loss, **aux}.items():
            column = self.loss if not name else self.aux.get(name)
            if column is None:
                column = self.aux[name] = np.full_like(self.loss, np.nan)
            own = values[: count * plan.seeds, :n]
            column[part.points, :, now] = own.reshape(count, plan.seeds, n)
        part.done += n
        self.steps[part.points] = part.done
        last = loss[:, n - 1]
        finite = last[np.isfinite(last)]
        show(n * count * plan.seeds, float(min(finite, default=np.nan)))

    def _finish(self, group: Group, part: Part) -> None:
        """Score the runs of a part that has come to the end of a rung."""
        if part.rungs > self._rung:
            return
        part.rungs += 1
        plan, count = self._plan, len(part.points)
        if plan.evaluate is None:
            last = max(1, part.done // 10)
            scores = np.mean(
                self.loss[part.points, :, part.done - last : part.done], axis=2
            )
        else:
            runs = count * plan.seeds
            every = np.asarray(_scored(plan.evaluate, part.carry, group.lanes))
            scores = every[:runs].reshape(count, plan.seeds)
        self.score[part.points] = scores
        self._pace.rest()
        goes_on = self._rung < len(plan.ends)  # or there were no more batches
        if goes_on and part.rungs < len(plan.ends) and part.done < plan.ends[-1]:
            return
        row = int(np.argmin(self._worth()[part.points]))
        point = int(part.points[row])
        worth = self._worth()
        if self.best is None or worth[point] < worth[self.best]:
            self.best = point
            seed = int(np.argmin(_worth(scores[row], plan.maximize)))
            self.trained = group.run(part, row * plan.seeds + seed)
        part.carry = None

    def _worth(self) -> np.ndarray:
        """How good each point is: less is better."""
        return _worth(np.mean(self.score, axis=1), self._plan.maximize)

    def _select(self) -> None:
        """Go on with the best."""
        points = np.concatenate([part.points for _, part in self.parts])
        order = points[np.argsort(self._worth()[points], kind="stable")]
        alive = {int(x) for x in order[: math.ceil(self._plan.keep * len(points))]}
        for group in self.groups:
            group.keep(alive)
        self.groups = [group for group in self.groups if group.parts]

    def _left(self) -> int:
        """The steps of all runs that are still to be made."""
        left, done = 0, 0
        count = float(sum(len(part.points) for _, part in self.parts))
        for end in self._plan.ends[self._rung :]:
            left += math.ceil(count) * (end - done)
            done, count = end, count * self._plan.keep
        made = sum(len(part.points) * part.done for _, part in self.parts)
        return max(0, left - made) * self._plan.seeds


@eqx.filter_jit
def _scored(evaluate: Callable[..., Any], carry: Any, lanes: Lanes) -> Array:
    arrays, carry_of = split(carry)

    def one(arrays: list[Array]) -> Array:
        model, opt, state = carry_of(arrays)
        stated = () if state is None else (state,)
        score = evaluate(opt.eval_params(model), *stated)
        if jnp.shape(score) != ():
            raise ValueError(
                "`sweep`: `evaluate` must give a scalar, but gave an array of shape "
                f"{jnp.shape(score)}"
            )
        return jnp.asarray(score, float)

    return jax.vmap(one, (lanes.axes,))(arrays)


def _worth(scores: np.ndarray, maximize: bool) -> np.ndarray:
    return np.where(np.isfinite(scores), -scores if maximize else scores, np.inf)
