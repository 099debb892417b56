"""The runs of a sweep: how far each has come, and which go on."""

import dataclasses
import math
import os
import time
import warnings
from collections import deque
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

from ._batches import Chunk, Drawn, Iterated, Source
from ._compiled_step import CompiledStep
from ._lanes import depending, Lanes, nbytes, split, traced
from ._loss import Given
from ._points import Stack
from ._progress import shown_progress
from ._run import Pace
from ._step import Carry, training_step
from ._stop import Stop


Show = Callable[[int, float], None]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a sweep was asked for."""

    loss_fn: Callable[..., Any]
    program: CompiledStep
    source: Callable[[PRNGKeyArray, int], Source]
    """Where the batches of a run come from, given its key and its first step."""
    keys: Array
    """A random key for each seed."""
    takes_key: bool
    models: tuple[Any, Any]
    """The models of all seeds along a first axis, and their states."""
    evaluate: Callable[..., Any] | None
    maximize: bool
    has_aux: bool
    residuals: bool
    ends: list[int]
    """The numbers of steps after which points are compared."""
    keep: float
    chunk_size: int | None
    steps_per_call: int
    progress: bool

    @property
    def seeds(self) -> int:
        return len(self.keys)


class Part:
    """Some points that share a program, and train side by side with all seeds."""

    def __init__(self, points: np.ndarray, size: int, seeds: int):
        self.points = points
        # Parts are of one size, so that one program fits all.
        self.rows = np.repeat(np.resize(np.arange(len(points)), size), seeds)
        self.seeds = np.tile(np.arange(seeds, dtype=np.int32), size)
        self.carry: Carry | None = None
        self.done = 0
        self.rungs = 0


class Group:
    """The points of one stack, in parts that fit into memory."""

    def __init__(self, plan: Plan, stack: Stack, chunk: Chunk, last: int):
        self._plan = plan
        opts, opt_of = split(stack.opts)
        models, model_of = split(plan.models)
        self._stack = stack
        differs = [not _all_equal(x) for x in opts]
        forms: list[Callable[[list[Any]], Carry]] = []

        def begin(opt: list[Array], model: list[Array]) -> list[Array]:
            arrays, carry_of = split(_begun(opt_of(opt), *model_of(model)))
            forms.append(carry_of)
            return arrays

        began = traced(begin, _one(opts), _one(models))
        self._carry_of = forms[0]
        step = _step_of(plan, self._carry_of)
        stepped = traced(step, _like(began), plan.keys[0], chunk)
        varying = depending(began, [*differs, *[True] * len(models)])
        others = [True] * (len(stepped.jaxpr.invars) - len(varying))  # key and batch
        grown = None
        while grown != varying:
            grown = varying
            now = depending(stepped, [*varying, *others])
            varying = [a or b for a, b in zip(varying, now)]
        self.lanes = Lanes(tuple(not x for x in varying))
        self.nbytes = nbytes(began) + nbytes(stepped)
        self._differs = Lanes(tuple(not x for x in differs))
        points = np.asarray(stack.points)
        self._row_of = {int(point): i for i, point in enumerate(points)}
        # Those that are left in the last rung should fill one part.
        most = min(self._most(), last)
        self._size = math.ceil(len(points) / math.ceil(len(points) / most))
        self.parts = self._split(points)

    def _most(self) -> int:
        """How many points train side by side at most."""
        free = _free_bytes()
        runs = self._plan.chunk_size or free // self.nbytes
        if runs < self._plan.seeds and self._plan.chunk_size is None:
            needed = self.nbytes * self._plan.seeds
            warnings.warn(
                f"`sweep`: a point with its {self._plan.seeds} seeds may need "
                f"{needed / 1e9:.2g} GB, and {free / 1e9:.2g} GB are free for it. Use "
                "fewer seeds or smaller batches, or set `chunk_size` if you know that "
                "it fits",
                stacklevel=6,
            )
        return max(1, runs // self._plan.seeds)

    def _split(self, points: np.ndarray) -> list[Part]:
        starts = range(0, len(points), self._size)
        return [
            Part(points[i : i + self._size], self._size, self._plan.seeds)
            for i in starts
        ]

    def started(self, part: Part) -> Carry:
        rows = np.array([self._row_of[int(point)] for point in part.points])[part.rows]
        where = jax.device_put((rows, part.seeds))
        opts, models = self._stack.opts, self._plan.models
        return _started(opts, models, where, self._differs, self.lanes)

    def run(self, part: Part, lane: int) -> Carry:
        """The model, optimizer and state of one run."""
        return _one_of(part.carry, jax.device_put(np.int32(lane)), self.lanes)

    def keep(self, alive: set[int]) -> None:
        """Go on with these points alone."""
        seeds = self._plan.seeds
        carries = [split(part.carry)[0] for part in self.parts]
        found = {
            int(point): (i, row * seeds)
            for i, part in enumerate(self.parts)
            for row, point in enumerate(part.points)
        }
        done, rungs = self.parts[0].done, self.parts[0].rungs
        parts = self._split(np.array([x for x in found if x in alive], int))
        for part in parts:
            first = np.arange(seeds)
            lanes = [found[int(point)] for point in part.points]
            offset = np.cumsum([0, *[len(p.rows) for p in self.parts]])
            rows = np.concatenate(
                [offset[lanes[i][0]] + lanes[i][1] + first for i in part.rows[::seeds]]
            )
            arrays = [
                jnp.copy(xs[0]) if shared else jnp.concatenate(xs)[rows]
                for shared, *xs in zip(self.lanes.shared, *carries)
            ]
            part.carry = self._carry_of(arrays)
            part.done, part.rungs = done, rungs
        self.parts = parts


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
        if part.rungs < len(plan.ends) and part.done < plan.ends[-1]:
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


def _step_of(
    plan: Plan, carry_of: Callable[[list[Any]], Carry]
) -> Callable[..., list[Array]]:
    """A step of one run, from arrays to arrays."""

    def step(arrays: list[Array], key: PRNGKeyArray, chunk: Chunk) -> list[Array]:
        batch = chunk.batch(jnp.zeros((), jnp.int32))
        batch = batch if isinstance(batch, tuple) else (batch,)
        carry, _ = training_step(
            plan.loss_fn,
            carry_of(arrays),
            Given(batch, {}, key if plan.takes_key else None),
            has_aux=plan.has_aux,
            residuals=plan.residuals,
        )
        return split(carry)[0]

    return step


def _begun(opt: Any, model: Any, state: Any) -> Carry:
    return model, opt.init(model), state


@eqx.filter_jit
def _started(opt: Any, models: Any, where: Any, differs: Lanes, lanes: Lanes) -> Any:
    """What the runs begin with. `where` has, for each, the row of its optimizer and
    that of its model."""
    rows, seeds = where
    opts, opt_of = split(opt)
    opts = differs.map(lambda x: x[rows], opts, lambda x: x[0])
    arrays, model_of = split(models)
    forms: list[Callable[[list[Any]], Carry]] = []

    def one(opt: list[Array], model: list[Array]) -> list[Array]:
        arrays, carry_of = split(_begun(opt_of(opt), *model_of(model)))
        forms.append(carry_of)
        return arrays

    axes = differs.axes, 0
    started = jax.vmap(one, axes, lanes.axes)(opts, [x[seeds] for x in arrays])
    return forms[0](started)


@eqx.filter_jit
def _one_of(carry: Any, lane: Int[Array, ""], lanes: Lanes) -> Any:
    arrays, carry_of = split(carry)
    return carry_of(lanes.map(lambda x: x[lane], arrays, lambda x: x))


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


def _all_equal(x: Array) -> bool:
    """Whether a number is the same for all points."""
    if x.ndim != 1 or jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return False
    values = np.asarray(x)
    return values.tobytes() == np.resize(values[:1], len(values)).tobytes()


def _one(arrays: list[Array]) -> list[Any]:
    return [jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in arrays]


def _like(closed: Any) -> list[Any]:
    return [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in closed.out_avals]


def _free_bytes() -> int:
    """Half of what is free on the device."""
    stats = jax.devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return (stats["bytes_limit"] - stats.get("bytes_in_use", 0)) // 2
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):  # no such number on this system
        return 2**31
