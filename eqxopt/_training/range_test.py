"""The learning-rate range test."""

import contextlib
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import equinox as eqx
import jax.tree_util as jtu
import numpy as np
from jax.core import Tracer
from jaxtyping import PRNGKeyArray, PyTree

from .._abstract.nested import inner_transforms
from .._abstract.optimizer import AbstractOptimizer
from .._abstract.transform import AbstractTransform
from .._schedule.abstract import AbstractSchedule
from .._schedule.exponential import ExponentialDecay
from .._wrapper.accumulate import Accumulate
from ._compiled_step import check_alive
from ._history import History, Recorder
from ._loop import new_loop, shared_loop
from ._loss import takes_key
from ._peers import ALONE
from ._program import ProgramOf
from ._progress import shown_progress
from ._range import Losses, Ramp, Watch
from ._range_result import RangeTest
from ._run import Run
from ._source import source_of
from ._stop import Stop


# A run ends so many updates after it has diverged, at most.
_UPDATES_PER_CALL = 10
_LEAST_PER_DECADE = 5


def range_test(
    loss_fn: Callable[..., Any],
    model: Any,
    make: Callable[[Any], AbstractOptimizer],
    batches: Iterable[Any] | PyTree = None,
    *,
    low: float = 1e-7,
    high: float = 10.0,
    steps: int = 400,
    state: Any = None,
    batch_size: int | None = None,
    key: PRNGKeyArray | None = None,
    has_aux: bool = False,
    residuals: bool = False,
    smoothing: float = 0.25,
    divergence: float = 3.0,
    progress: bool = True,
) -> RangeTest:
    """Tries learning rates in one short run: the rate grows from step to step, and the
    losses show which rates are too small, good and too large.

    The run trains as [`fit`][eqxopt.fit] does, and ends early once the loss has risen
    far above its lowest. The suggestion is half of the rate at which the smoothed loss
    was lowest. `model` and `state` stay as they are.

    **Arguments:**

    - `loss_fn`, `model`, `state`, `batches`, `batch_size`, `key`, `has_aux`,
        `residuals`, `progress`: as for [`fit`][eqxopt.fit].
    - `make`: called with the learning rate, a schedule, gives an optimizer, wrapped or
        not. Such as `eqxopt.AdamW`, or `lambda rate:
        eqxopt.Chain(eqxopt.ClipByGlobalNorm(1.0), eqxopt.SGD(rate))`.
    - `low`, `high`: the first rate and the last, in (0, inf). In between, each is the
        same multiple of the one before. Defaults 1e-7 and 10.
    - `steps`: the number of rates, at least 5 for each factor of 10 from `low` to
        `high`, and at least 10. Each is used for one update: with
        [`Accumulate`][eqxopt.Accumulate] that takes several batches. Default 400.
    - `smoothing`: over how many powers of 10 of the rate losses are averaged on both
        sides, in [0, inf). The weight of a loss falls exponentially with this distance.
        Default 0.25.
    - `divergence`: when to stop, in (0, inf). The moving average of the loss must have
        risen from its lowest value by more than so many times that value, and than so
        many times the fall from the highest loss before. Default 3. A loss that is
        infinite or NaN stops the run too.

    **Returns:** a [`RangeTest`][eqxopt.RangeTest]. Its `suggestion` is `None` if the
    loss did not fall by more than its noise, if it was still falling at the highest
    rate, and if it was lowest at a rate below twice `low`. Its `how` then says what to
    change.

    **How good it is.** We compared it with the best constant rate for 300 steps, by the
    training loss at the end, on six tasks with data of scikit-learn, for `SGD` without
    and with momentum, `Adam` and `Lion`. With the defaults 125 of 144 suggestions were
    right within a factor of 3, and the mean over seeds was a third of the best rate to
    2.4 times it, but 4 times for `Lion` and a network of four hidden layers. With 200
    steps 113 were: fewer steps lead to higher rates. Long training and held-out data
    want lower rates, often much lower ones where a network overfits. Take the
    suggestion as the middle of a [`sweep`][eqxopt.sweep].

    It says little about optimizers that have no learning rate, or a factor near 1 in
    its place, and about line searches. A step that a wrapper skips, such as
    [`SkipNonFinite`][eqxopt.SkipNonFinite], does not raise the rate, so the rates after
    it are lower than `rates` says.

    **Raises:** a `ValueError` if `make` does not use the learning rate, and for numbers
    out of range; a `TypeError` if `make` gives no optimizer; and what `fit` raises.

    **Source:** Smith, [Cyclical Learning Rates for Training Neural
    Networks](https://arxiv.org/abs/1506.01186), 2017, where the rate grows on a line
    and the reader chooses. The
    [`lr_find`](https://docs.fast.ai/callback.schedule.html#learner.lr_find) of fastai
    suggests the rate where the loss falls most steeply, or a tenth of the one where it
    is lowest, among others. In our comparison the means of these were 1/29 to 2.3
    times the best rate, and 1/16 to 0.8 times it.

    !!! example

        ```pycon
        >>> import jax, jax.numpy as jnp, eqxopt
        >>> x = jnp.linspace(-1, 1, 64)
        >>> y = 2 * x + 0.1 * jax.random.normal(jax.random.key(0), x.shape)
        >>> loss_fn = lambda slope, x, y: jnp.mean((slope * x - y) ** 2)
        >>> result = eqxopt.range_test(
        ...     loss_fn, jnp.zeros(()), eqxopt.SGD, (x, y),
        ...     batch_size=16, key=jax.random.key(1), progress=False,
        ... )
        >>> print(f"{result.suggestion:.1f}")
        0.3

        ```
    """
    _check(model, make, low, high, steps, smoothing, divergence)
    ramp = Ramp(low, high, steps, smoothing, divergence)
    opt = _made(make, low, high, steps).init(model)
    check_alive((model, opt, state))
    every = _batches_per_update(opt)
    most = every * _UPDATES_PER_CALL
    source, _ = source_of(
        "`range_test`", batches, steps * every, batch_size, key, 0, most
    )
    watch = Watch(ramp.decay, divergence)
    seen = 0

    def diverged(*reached: Any) -> bool:
        nonlocal seen
        losses = _per_update(reached[-1], every)
        ended = any(watch.ends(x) for x in losses[seen:])
        seen = len(losses)
        return ended

    options = has_aux, residuals, 1
    anew = lambda: new_loop(*options)
    program = ProgramOf(loss_fn, shared_loop(*options), anew, "`range_test`")
    with shown_progress(steps * every, progress) as show, Stop() as stop:
        key = key if takes_key(loss_fn) else None
        run = Run(program, key, (model, opt, state), Recorder(0), show, ALONE)
        with _without_warnings():
            run.train(source, stop, steps * every, most, False, diverged)
    history = run.recorder.history()
    losses = _per_update(history, every)
    stopped = history.stopped
    if stopped is None and len(losses) < steps:
        stopped = "batches"
    return ramp.judged(losses, stopped)


def _check(
    model: Any,
    make: Any,
    low: float,
    high: float,
    steps: int,
    smoothing: float,
    divergence: float,
) -> None:
    if isinstance(make, AbstractTransform) or not callable(make):
        raise TypeError(
            "`range_test`: `make` must be a function from a learning rate to an "
            f"optimizer, such as `eqxopt.AdamW` itself, not {make!r}"
        )
    if any(isinstance(x, Tracer) for x in jtu.tree_leaves(model)):
        raise TypeError(
            "`range_test` compiles a loop of its own and looks at the losses, so it "
            "cannot be part of a function that is transformed, such as by `jax.jit`"
        )
    if not (0 < low < high and math.isfinite(high / low)):
        raise ValueError(
            f"`range_test`: 0 < low < high must hold, but low={low} and high={high}"
        )
    if not (smoothing >= 0 and divergence > 0):
        raise ValueError(
            f"`range_test`: smoothing={smoothing} must be at least 0, and "
            f"divergence={divergence} above 0"
        )
    least = max(10, math.ceil(_LEAST_PER_DECADE * math.log10(high / low)))
    if steps < least:
        raise ValueError(
            f"`range_test`: steps={steps} are too few from low={low} to high={high}: "
            f"there must be {least} at least"
        )


def _made(
    make: Callable[[Any], Any], low: float, high: float, steps: int
) -> AbstractOptimizer:
    """The optimizer with the ramp as its learning rate."""
    growth = high / low
    opt = _optimizer(make, ExponentialDecay(low, steps - 1, growth, end_value=high))
    # Another ramp that begins alike: `make` may also lose it by calling it.
    other = _optimizer(make, ExponentialDecay(low, steps, 2 * growth, end_value=high))
    if eqx.tree_equal(opt, other):
        raise ValueError(
            "`range_test`: `make` does not use the learning rate that it is given, "
            f"which is a schedule. It returned {opt}"
        )
    return opt


def _optimizer(make: Callable[[Any], Any], rate: AbstractSchedule) -> AbstractOptimizer:
    try:
        opt = make(rate)
    except Exception as error:
        error.add_note(
            "`range_test` gives `make` a schedule as the learning rate, and no number"
        )
        raise
    if not isinstance(opt, AbstractOptimizer):
        raise TypeError(
            "`range_test`: `make` must return an optimizer, such as "
            f"`eqxopt.AdamW(rate)`, but returned {opt!r}"
        )
    return opt


def _batches_per_update(opt: AbstractOptimizer) -> int:
    """How many batches make one update, and one step of the ramp."""
    found = {_every(x) for x in _all(opt) if isinstance(x, Accumulate)}
    if len(found) > 1:
        raise ValueError(
            "`range_test`: every `Accumulate` must accumulate as many batches, but "
            f"these have every={sorted(found)}"
        )
    return found.pop() if found else 1


def _every(accumulate: Accumulate) -> int:
    every = accumulate.every
    if not eqx.is_array(every):
        raise ValueError(
            "`range_test`: `Accumulate(every=...)` must be a number here, not "
            f"{every!r}"
        )
    return math.ceil(float(every))


def _all(transform: AbstractTransform) -> Iterator[AbstractTransform]:
    yield transform
    for x in inner_transforms(transform).values():
        yield from _all(x)


def _per_update(history: History, every: int) -> Losses:
    """The mean loss over the batches of each update."""
    whole = len(history.loss) // every * every
    losses = history.loss[:whole].astype(np.float64)
    return losses.reshape(-1, every).mean(axis=1)


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Without those of a run about what is expected here."""
    with warnings.catch_warnings():
        for message in ("`fit`: the loss is ", "`fit` made "):
            warnings.filterwarnings("ignore", message)
        yield
