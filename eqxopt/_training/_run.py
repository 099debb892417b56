"""One run of `fit`: what it has reached, and when it calls, stops and ends."""

import contextlib
import signal
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from ._chunks import Chunk
from ._history import Recorder
from ._peers import Peers
from ._program import ProgramOf
from ._source import Source
from ._step import Carry
from ._stop import Stop


# One call of the compiled program takes about so long at most, in seconds, unless one
# step takes longer: a signal stops training between two calls.
_SECONDS = 0.25
# What a process answers whose callback raised an exception.
_RAISED = 2


class Run:
    """One call of `fit`: what it has reached, and how it goes on."""

    def __init__(
        self,
        program: ProgramOf,
        key: PRNGKeyArray | None,
        carry: Carry,
        recorder: Recorder,
        show: Callable[[int, float], None],
        peers: Peers,
    ):
        self.recorder = recorder
        self._program = program
        self._step, self._loss_fn = program.now()
        self._key = key
        self._carry = carry
        self._show = show
        self._peers = peers
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
        pace = Pace(steps_per_call)
        while done != steps and not source.ended:
            to_callback = steps_per_call - done % steps_per_call
            left = to_callback if steps is None else min(to_callback, steps - done)
            # The batches are made while the device computes the steps before.
            most = np.min(self._peers.of_all(pace.steps(left)))
            for chunk, n in source.take(int(most), stop):
                self._finish()
                self._begin(chunk, n)
                done += n
            requested = self._agreed_stop(stop)
            ending = done == steps or source.ended or requested is not None
            due = done > seen and (done % steps_per_call == 0 or ending)
            if ending or due or stop_on_nonfinite or source.error is not None:
                self._finish()
            if due and callback is not None:
                seen = done
                if self._called(callback):
                    self.recorder.stopped = "callback"
                    return
                pace.rest()
                if done != steps:  # the callback may have changed what it reads
                    self._step, self._loss_fn = self._program.now()
            if source.error is not None:
                raise source.error
            if stop_on_nonfinite and not self._finite:
                self.recorder.stopped = "nonfinite"
            elif requested is not None and done != steps:
                self.recorder.stopped = requested
            if self.recorder.stopped is not None:
                return
        if steps is not None and done < steps:
            warnings.warn(
                f"`fit` made {done} of {steps} steps: there were no more batches",
                stacklevel=3,
            )

    def _agreed_stop(self, stop: Stop) -> str | None:
        """The signal that this or another process was given."""
        name = stop.requested
        number = np.max(self._peers.of_all(0 if name is None else signal.Signals[name]))
        return signal.Signals(number).name if number else None

    def _called(self, callback: Callable[..., Any]) -> bool:
        """Whether the callback of this or of another process wants to stop."""
        try:
            answer = int(_says_stop(callback, self.result()))
        except BaseException:
            self._peers.of_all(_RAISED)
            raise
        answers = self._peers.of_all(answer)
        if _RAISED in answers:
            raise RuntimeError("`fit`: the callback of another process raised an error")
        return bool(np.any(answers))

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
            recorder = self.recorder
            step = recorder.first_step + recorder.steps - n + wrong[0]
            warnings.warn(
                f"`fit`: the loss is {loss[wrong[0]]} at step {step}",
                stacklevel=4,
            )


class Pace:
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
