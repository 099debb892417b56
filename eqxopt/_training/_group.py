"""The points of a sweep that share a program, in parts that fit into memory."""

import math
import os
import warnings
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

from ._chunks import Chunk
from ._lanes import depending, Lanes, nbytes, split, traced
from ._loss import Given
from ._plan import Plan
from ._points import Stack
from ._step import Carry, training_step


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
