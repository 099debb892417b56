"""Many training steps in one compiled loop."""

import contextlib
import functools
import time
import warnings
from collections.abc import Callable, Iterable
from typing import Any, overload, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, PRNGKeyArray, PyTree

from .._abstract.optimizer import AbstractOptimizer
from ._batches import (
    check_iterable,
    check_length,
    Chunk,
    InMemory,
    Iterated,
    readable,
    Repeated,
    row_count,
    Source,
)
from ._compiled_step import check_alive, CompiledStep
from ._history import History, Recorder
from ._loss import called, Given, takes_key
from ._program import ProgramOf
from ._progress import shown_progress
from ._step import batches_taken, Carry, check_optimizer, training_step
from ._stop import Stop


M = TypeVar("M")
O = TypeVar("O", bound=AbstractOptimizer)
S = TypeVar("S")

# One call of the compiled program takes about so long at most, in seconds, unless one
# step takes longer: a signal stops training between two calls.
_SECONDS = 0.25
# The key of the order is made with a number that no step has.
_ORDER = np.uint32(2**32 - 1)


@overload
def fit(
    loss_fn: Callable[..., Any],
    model: M,
    opt: O,
    batches: Iterable[Any] | PyTree = None,
    *,
    state: None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    key: PRNGKeyArray | None = None,
    has_aux: bool = False,
    steps_per_call: int = 50,
    progress: bool = True,
    stop_on_nonfinite: bool = False,
    callback: Callable[[M, O, History], Any] | None = None,
) -> tuple[M, O, History]: ...
@overload
def fit(
    loss_fn: Callable[..., Any],
    model: M,
    opt: O,
    batches: Iterable[Any] | PyTree = None,
    *,
    state: S,
    steps: int | None = None,
    batch_size: int | None = None,
    key: PRNGKeyArray | None = None,
    has_aux: bool = False,
    steps_per_call: int = 50,
    progress: bool = True,
    stop_on_nonfinite: bool = False,
    callback: Callable[[M, O, S, History], Any] | None = None,
) -> tuple[M, O, S, History]: ...
def fit(
    loss_fn: Callable[..., Any],
    model: Any,
    opt: Any,
    batches: Iterable[Any] | PyTree = None,
    *,
    state: Any = None,
    steps: int | None = None,
    batch_size: int | None = None,
    key: PRNGKeyArray | None = None,
    has_aux: bool = False,
    steps_per_call: int = 50,
    progress: bool = True,
    stop_on_nonfinite: bool = False,
    callback: Callable[..., Any] | None = None,
) -> Any:
    """Trains for many steps. Each call of its compiled program makes up to
    `steps_per_call` of them.

    **Arguments:**

    - `loss_fn`: [the loss function][the-loss-function]. Called as
        `loss_fn(model, *batch)` if a batch is a tuple or a list, and as
        `loss_fn(model, batch)` otherwise.
    - `model`, `opt`: the model, and an optimizer that is initialised for it.
    - `batches`: an iterable of batches, such as a data loader: pytrees of what NumPy
        can read. Or, with `batch_size`, all the data: a pytree of arrays whose first
        axis is the rows. It is copied to the device once, and batches are drawn there,
        in a new order every epoch. Default: no batch, and `loss_fn(model)` is called.
    - `state`: what `loss_fn` is given after the model, and gives after the loss, such
        as an `equinox.nn.State`. Default: none.
    - `steps`: the number of steps. Default: all batches of the iterable, or one epoch
        of the data in memory.
    - `batch_size`: for data in memory, the number of rows in a batch. Rows that do not
        fill a batch are left out in that epoch. All rows, in their own order, are the
        batch of every step if it is their number.
    - `key`: the random key of the run. The order of the data in memory depends on it,
        and a `loss_fn` that has a parameter `key` is given one made from it and the
        number of steps that `opt` has made, as by [`make_step`][eqxopt.make_step].
    - `has_aux`: whether `loss_fn` gives a dictionary of named scalars as well. They are
        in `history.aux`. Default `False`.
    - `steps_per_call`: the most steps in one call of the compiled program, and the
        steps between two calls of `callback`. Default 50.
    - `progress`: whether to show a progress bar, which needs tqdm, in terminals and
        notebooks, and a line every ten seconds elsewhere. Default `True`.
    - `stop_on_nonfinite`: whether to stop after a call in which a loss is infinite or
        NaN. There is a warning in any case. Default `False`.
    - `callback`: called as `callback(model, opt, history)`, or with a state as
        `callback(model, opt, state, history)`, after every `steps_per_call` steps and
        after the last. Training stops if it returns `True`.

    **Returns:** `(model, opt, history)`, or with a state `(model, opt, state,
    history)`.

    The first SIGINT, as from a keyboard interrupt, or SIGTERM, which preempted jobs
    get, stops training after the current step, or after a quarter of a second if steps
    are shorter. `fit` then returns what it has reached, and `history.stopped` says why.
    An exception in an iterator, a step or a callback passes through with the attribute
    `reached`: what `fit` would have returned just before.

    To continue, call `fit` with the returned model, optimizer and state and the same
    `key`. The results are those of an uninterrupted run, bit for bit: the order of the
    data and the keys depend on the number of steps that the optimizer has made, and an
    iterator continues where it stopped.

    A second call with the same shapes compiles nothing, unless something that `loss_fn`
    reads has changed or may have changed unseen: [what is looked
    at][what-a-program-depends-on].

    **Raises:** a `ValueError` for options that exclude each other, data of different
    lengths, too few batches, and a loss that is not a scalar; a `TypeError` for a loss
    function with other arguments or results, and for batches that are no numbers.

    !!! example

        ```pycon
        >>> import jax, jax.numpy as jnp, eqxopt
        >>> x = jnp.linspace(-1, 1, 64)
        >>> loss_fn = lambda slope, x, y: jnp.mean((slope * x - y) ** 2)
        >>> opt = eqxopt.Adam(0.1).init(jnp.zeros(()))
        >>> slope, opt, history = eqxopt.fit(
        ...     loss_fn, jnp.zeros(()), opt, (x, 2 * x),
        ...     steps=200, batch_size=16, key=jax.random.key(0),
        ... )
        >>> print(f"{slope:.3f}", history.loss.shape)
        2.000 (200,)

        ```
    """
    _check((model, opt, state), steps, steps_per_call)
    first = int(jax.device_get(batches_taken(opt)))
    source, steps = _source(
        loss_fn, batches, steps, batch_size, key, first, steps_per_call
    )
    new_loop = lambda: _new_loop(has_aux)
    program = ProgramOf(loss_fn, _loop(has_aux), new_loop, "`fit`")
    with shown_progress(steps, progress) as show, Stop() as stop:
        key = key if takes_key(loss_fn) else None
        run = _Run(program, key, (model, opt, state), Recorder(first), show)
        try:
            run.train(source, stop, steps, steps_per_call, stop_on_nonfinite, callback)
        except BaseException as error:
            run.settle()
            error.reached = run.result()  # pyright: ignore[reportAttributeAccessIssue]
            error.add_note(
                f"`fit`: `reached` of this exception has what was trained in "
                f"{run.recorder.steps} steps"
            )
            raise
    return run.result()


class _Run:
    """One call of `fit`: what it has reached, and how it goes on."""

    def __init__(
        self,
        program: ProgramOf,
        key: PRNGKeyArray | None,
        carry: Carry,
        recorder: Recorder,
        show: Callable[[int, float], None],
    ):
        self.recorder = recorder
        self._program = program
        self._step, self._loss_fn = program.now()
        self._key = key
        self._carry = carry
        self._show = show
        # What the device is computing.
        self._pending: tuple[Carry, Any, int] | None = None
        self._finite = True

    def result(self) -> tuple[Any, ...]:
        model, opt, state = self._carry
        stated = () if state is None else (state,)
        return model, opt, *stated, self.recorder.history()

    def train(
        self,
        source: Source,
        stop: Stop,
        steps: int | None,
        steps_per_call: int,
        stop_on_nonfinite: bool,
        callback: Callable[..., Any] | None,
    ) -> None:
        done = seen = 0  # steps begun, and those of the last callback
        pace = _Pace(steps_per_call)
        while done != steps and not source.ended:
            to_callback = steps_per_call - done % steps_per_call
            left = to_callback if steps is None else min(to_callback, steps - done)
            # The batches are made while the device computes the steps before.
            for chunk, n in source.take(pace.steps(left), stop):
                self._finish()
                self._begin(chunk, n)
                done += n
            ending = done == steps or source.ended or stop.requested is not None
            due = done > seen and (done % steps_per_call == 0 or ending)
            if ending or due or stop_on_nonfinite or source.error is not None:
                self._finish()
            if due and callback is not None:
                seen = done
                if _says_stop(callback, self.result()):
                    self.recorder.stopped = "callback"
                    return
                pace.rest()
                if done != steps:  # the callback may have changed what it reads
                    self._step, self._loss_fn = self._program.now()
            if source.error is not None:
                raise source.error
            if stop_on_nonfinite and not self._finite:
                self.recorder.stopped = "nonfinite"
            elif stop.requested is not None and done != steps:
                self.recorder.stopped = stop.requested
            if self.recorder.stopped is not None:
                return
        if steps is not None and done < steps:
            warnings.warn(
                f"`fit` made {done} of {steps} steps: there were no more batches",
                stacklevel=3,
            )

    def settle(self) -> None:
        """Add what the device has computed, if that went well."""
        with contextlib.suppress(Exception):
            self._finish()

    def _begin(self, chunk: Chunk, n: int) -> None:
        args = self._loss_fn, self._key, chunk, jax.device_put(np.int32(n))
        self._pending = *self._step(self._carry, args), n

    def _finish(self) -> None:
        """Wait for the device, where an error of a step shows."""
        if self._pending is None:
            return
        (carry, out, n), self._pending = self._pending, None
        loss, aux = jax.device_get(out)
        self._carry = carry
        self.recorder.add(n, loss, aux)
        self._show(n, float(loss[n - 1]))
        wrong = np.flatnonzero(~np.isfinite(loss[:n]))
        if self._finite and len(wrong):
            self._finite = False
            step = self.recorder.steps - n + wrong[0]
            warnings.warn(
                f"`fit`: the loss is {loss[wrong[0]]} at step {step}",
                stacklevel=4,
            )


class _Pace:
    """How many steps to make in one call, so that it can be stopped soon."""

    def __init__(self, most: int):
        self._most = most
        self._steps = 1
        self._started: float | None = None

    def steps(self, left: int) -> int:
        now = time.perf_counter()
        if self._started is not None:
            # A call has not always as many steps as there could be, and the first ones
            # compile: go up in large strides.
            ratio = _SECONDS / max(now - self._started, 1e-9)
            self._steps = max(1, min(self._most, int(self._steps * min(ratio, 8.0))))
        self._started = now
        return min(self._steps, left)

    def rest(self) -> None:
        """Leave out the time until the next call."""
        self._started = None


def _says_stop(callback: Callable[..., Any], result: tuple[Any, ...]) -> bool:
    answer = callback(*result)
    if answer is None:
        return False
    if (
        isinstance(answer, bool | np.bool_ | jax.Array)
        and np.asarray(answer).dtype == bool
    ):
        return bool(answer)
    raise TypeError(
        f"`fit`: the callback must return `True` to stop, or `False` or `None`, but "
        f"returned {answer!r}"
    )


def _check(carry: Carry, steps: int | None, steps_per_call: int) -> None:
    check_optimizer("`fit`", carry[1])
    if any(isinstance(x, Tracer) for x in jtu.tree_leaves(carry)):
        raise TypeError(
            "`fit` compiles a loop of its own and looks at the losses, so it cannot be "
            "part of a function that is transformed, such as by `jax.vmap` or "
            "`jax.jit`. Use `opt.apply` in a `jax.lax.scan` there"
        )
    check_alive(carry)
    if steps_per_call < 1:
        raise ValueError(f"`fit`: steps_per_call={steps_per_call} must be at least 1")
    if steps is not None and steps < 0:
        raise ValueError(f"`fit`: steps={steps} must be at least 0")


def _source(
    loss_fn: Callable[..., Any],
    batches: Any,
    steps: int | None,
    batch_size: int | None,
    key: PRNGKeyArray | None,
    first: int,
    length: int,
) -> tuple[Source, int | None]:
    """Where the batches come from, and the number of steps, if it is known."""
    shuffled = False
    if batches is None:
        if steps is None or batch_size is not None:
            raise ValueError(
                "`fit`: without batches it needs the number of `steps`, and no "
                "`batch_size`"
            )
        source = Repeated((), length)
    elif batch_size is None:
        steps = check_length(check_iterable(batches), steps)
        source = Iterated(iter(batches), length)
    else:
        data = jtu.tree_map(jax.device_put, readable(batches, "data"))
        rows = row_count(data)
        shuffled = batch_size != rows
        if not 1 <= batch_size <= rows or (shuffled and key is None):
            raise ValueError(
                "`fit`: data in memory needs a `key`, and a `batch_size` from 1 to its "
                f"{rows} rows; got key={key} and batch_size={batch_size}"
            )
        steps = rows // batch_size if steps is None else steps
        if key is None or not shuffled:
            source = Repeated(data, length)
        else:
            order = jax.random.fold_in(key, jax.device_put(_ORDER))
            source = InMemory(data, batch_size, order, first, length)
    if key is not None and not shuffled and not takes_key(loss_fn):
        raise ValueError(
            "`fit`: nothing uses the `key`: the loss function has no parameter of that "
            "name, and the batches have their own order"
        )
    return source, steps


@functools.cache
def _loop(has_aux: bool) -> CompiledStep:
    """The loop of all calls, so that a second one compiles nothing."""
    return _new_loop(has_aux)


def _new_loop(has_aux: bool) -> CompiledStep:
    """The compiled loop of `n` steps.

    `n` is an argument of the program, so that fewer steps than a chunk has compile
    nothing.
    """

    def loop(carry: Carry, args: Any) -> tuple[Carry, Any]:
        loss_fn, key, chunk, n = args
        arrays, static = eqx.partition(carry, eqx.is_array)

        def given(i: Array) -> Given:
            batch = chunk.batch(i)
            batch = batch if isinstance(batch, tuple) else (batch,)
            return Given(batch, {}, key)

        def body(i: Array, loop_state: Any) -> Any:
            arrays, columns = loop_state
            carry, out = training_step(
                loss_fn, eqx.combine(arrays, static), given(i), has_aux=has_aux
            )
            columns = jtu.tree_map(
                lambda column, x: column.at[i].set(x.astype(column.dtype)),
                columns,
                (out.loss, out.aux or {}),
            )
            return eqx.filter(carry, eqx.is_array), columns

        columns = jnp.zeros(chunk.length, float), {}
        if has_aux:
            first = jnp.zeros((), jnp.int32)
            evaluate = lambda: called(loss_fn, True, carry[0], carry[2], given(first))
            columns = columns[0], _columns(eqx.filter_eval_shape(evaluate).aux, chunk)
        arrays, columns = jax.lax.fori_loop(0, n, body, (arrays, columns))
        return eqx.combine(arrays, static), columns

    return CompiledStep(loop, donate=False)


def _columns(aux: Any, chunk: Chunk) -> dict[str, Array]:
    if not isinstance(aux, dict):
        raise TypeError(
            "`fit`: beside the loss, the loss function must give a dictionary of named "
            f"scalars, such as `{{'accuracy': ...}}`, not a `{type(aux).__name__}`"
        )
    for name, x in aux.items():
        if not hasattr(x, "shape") or x.shape != ():
            raise ValueError(
                f"`fit`: `aux[{name!r}]` must be a scalar array, but "
                + (f"has shape {x.shape}" if hasattr(x, "shape") else f"is {x!r}")
            )
    return {name: jnp.zeros(chunk.length, x.dtype) for name, x in aux.items()}
