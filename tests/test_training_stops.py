"""How a training run ends: callbacks, signals, exceptions; and how it goes on."""

import itertools
import os
import signal
import sys
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training_loops import arrays, assert_equal

import eqxopt
from eqxopt._training import _progress


KEY = jax.random.key(0)


def loss_fn(x, rows):
    return jnp.mean(jnp.square(x - rows))


def started(opt=None):
    x = jnp.zeros(())
    return x, (eqxopt.Adam(0.1) if opt is None else opt).init(x)


def batches(n=100):
    return [np.float32(i) for i in range(n)]


def plain_loop(steps):
    x, opt = started()
    for batch in batches(steps):
        x, opt = opt.apply(jax.grad(loss_fn)(x, batch), x)
    return float(x)


class TestCallbacks:
    @pytest.mark.parametrize("true", [True, np.True_, jnp.asarray(True)])
    def test_stops(self, true):
        seen = []

        def callback(x, opt, history):
            seen.append(len(history.loss))
            return true if len(seen) == 2 else None

        *_, history = eqxopt.fit(
            loss_fn, *started(), batches(), steps_per_call=3, callback=callback
        )
        assert seen == [3, 6] and history.stopped == "callback"

    def test_every_few_steps_and_after_the_last(self):
        seen = []
        callback = lambda x, opt, history: seen.append(len(history.loss))
        for given in (batches(8), iter(batches(8)), [*batches(4), *[np.ones(2)] * 4]):
            eqxopt.fit(loss_fn, *started(), given, steps_per_call=3, callback=callback)
        assert seen == [3, 6, 8] * 3

    def test_with_a_state(self):
        states = []
        eqxopt.fit(
            lambda x, state: (x, state + 1),
            *started(),
            steps=4,
            state=jnp.zeros(()),
            steps_per_call=2,
            callback=lambda x, opt, state, history: states.append(float(state)),
        )
        assert states == [2, 4]

    def test_another_answer_is_named(self):
        with pytest.raises(TypeError, match="`True` to stop.*returned 0.5"):
            eqxopt.fit(loss_fn, *started(), batches(2), callback=lambda *_: 0.5)

    def test_what_it_is_given_stays(self):
        """The history grows, and what a callback kept of it does not change."""
        kept = []
        *_, history = eqxopt.fit(
            loss_fn,
            *started(),
            itertools.cycle(batches(3)),
            steps=3000,
            callback=lambda x, opt, history: kept.append((float(x), history)),
        )
        for i, (_, early) in enumerate(kept):
            np.testing.assert_array_equal(early.loss, history.loss[: 50 * (i + 1)])
        with pytest.raises(ValueError, match="read-only"):
            history.loss[0] = 0


class TestSignals:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_ends_with_what_was_pulled(self, number):
        """No batch is lost: the same iterator goes on where training stopped."""

        def interrupted():
            for i, batch in enumerate(batches(20)):
                if i == 5:
                    os.kill(os.getpid(), number)
                yield batch

        before = signal.getsignal(number)
        given = interrupted()
        x, opt, history = eqxopt.fit(loss_fn, *started(), given)
        assert history.stopped == number.name
        assert signal.getsignal(number) is before
        np.testing.assert_allclose(x, plain_loop(len(history.loss)), rtol=1e-5)
        x, opt, history = eqxopt.fit(loss_fn, x, opt, given)
        assert int(opt.count) == 20 and history.stopped is None
        np.testing.assert_allclose(x, plain_loop(20), rtol=1e-5)

    def test_soon_where_steps_are_slow(self):
        """And not only after the 50 steps of a call."""

        def slow(x, rows):
            jax.debug.callback(lambda: time.sleep(0.1))
            return loss_fn(x, rows)

        def interrupted():
            for i, batch in enumerate(batches()):
                if i == 6:
                    os.kill(os.getpid(), signal.SIGTERM)
                yield batch

        *_, history = eqxopt.fit(slow, *started(), interrupted())
        assert len(history.loss) <= 10

    def test_a_second_one_raises_and_loses_nothing(self):
        def stuck():
            yield from batches(5)
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)

        with pytest.raises(KeyboardInterrupt) as raised:
            eqxopt.fit(loss_fn, *started(), stuck())
        x, opt, history = raised.value.reached
        assert int(opt.count) == len(history.loss) == 5
        np.testing.assert_allclose(x, plain_loop(5), rtol=1e-5)

    def test_handlers_of_the_user_run_too(self):
        calls = []
        previous = signal.signal(signal.SIGTERM, lambda *_: calls.append("user"))
        try:
            os_kill = lambda x, opt, history: os.kill(os.getpid(), signal.SIGTERM)
            *_, history = eqxopt.fit(
                loss_fn, *started(), batches(4), steps_per_call=2, callback=os_kill
            )
        finally:
            signal.signal(signal.SIGTERM, previous)
        assert calls == ["user"] and history.stopped == "SIGTERM"
        assert len(history.loss) == 2


class TestExceptions:
    def check(self, error, steps):
        x, opt, history = error.reached
        assert int(opt.count) == len(history.loss) == steps
        np.testing.assert_allclose(x, plain_loop(steps), rtol=1e-5)
        assert f"trained in {steps} steps" in error.__notes__[-1]

    def test_in_an_iterator(self):
        def broken():
            yield from batches(7)
            raise OSError("the disk is gone")

        with pytest.raises(OSError, match="disk is gone") as raised:
            eqxopt.fit(loss_fn, *started(), broken())
        self.check(raised.value, 7)

    def test_in_a_callback(self):
        def callback(x, opt, history):
            if len(history.loss) == 6:
                raise OSError("no space")

        with pytest.raises(OSError, match="no space") as raised:
            eqxopt.fit(
                loss_fn, *started(), batches(), steps_per_call=3, callback=callback
            )
        self.check(raised.value, 6)

    def test_in_a_step(self):
        def failing(x, rows):
            rows = eqx.error_if(rows, rows == 7, "seven")
            return loss_fn(x, rows)

        with pytest.raises(Exception, match="seven") as raised:
            eqxopt.fit(failing, *started(), batches())
        steps = len(raised.value.reached[2].loss)
        assert steps <= 7
        self.check(raised.value, steps)

    def test_in_a_batch_of_another_kind(self):
        with pytest.raises(TypeError, match="`str`") as raised:
            eqxopt.fit(loss_fn, *started(), [*batches(3), "text"])
        self.check(raised.value, 3)


class TestNonfinite:
    def loss(self, x, rows):
        return jnp.where(rows == 4, jnp.nan, loss_fn(x, rows))

    def test_warns_once(self):
        with pytest.warns(UserWarning, match="loss is nan at step 4") as warned:
            *_, history = eqxopt.fit(self.loss, *started(), batches(60))
        assert len(warned) == 1 and len(history.loss) == 60
        assert history.stopped is None

    def test_counts_on_from_an_earlier_run(self):
        x, opt, _ = eqxopt.fit(loss_fn, *started(), batches(3))
        with pytest.warns(UserWarning, match="loss is nan at step 7"):
            *_, history = eqxopt.fit(self.loss, x, opt, batches(6))
        assert np.isnan(history.loss[history.step == 7])

    def test_stops(self):
        with pytest.warns(UserWarning, match="loss is nan at step 4"):
            *_, history = eqxopt.fit(
                self.loss,
                *started(),
                batches(60),
                steps_per_call=3,
                stop_on_nonfinite=True,
            )
        assert len(history.loss) == 6 and history.stopped == "nonfinite"


class TestProgress:
    def test_lines_in_a_log(self, capsys, monkeypatch):
        monkeypatch.setattr(_progress, "SECONDS", 0.0)
        eqxopt.fit(loss_fn, *started(), batches(4), steps_per_call=1)
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 4
        assert lines[1].startswith("step 2/4  loss 1") and lines[1].endswith("steps/s")

    def test_nothing_in_the_first_seconds(self, capsys):
        eqxopt.fit(loss_fn, *started(), batches(4))
        assert capsys.readouterr().err == ""

    def test_a_bar_in_a_terminal(self, capsys, monkeypatch):
        pytest.importorskip("tqdm")
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        eqxopt.fit(loss_fn, *started(), batches(4))
        shown = capsys.readouterr().err
        assert "4/4" in shown and "loss=" in shown
        eqxopt.fit(loss_fn, *started(), batches(4), progress=False)
        assert capsys.readouterr().err == ""


RESUMED = {
    "Adam": lambda: eqxopt.Adam(0.1),
    "Accumulate": lambda: eqxopt.Accumulate(eqxopt.Adam(0.1), every=3),
    "Chain": lambda: eqxopt.Chain(eqxopt.ClipByGlobalNorm(1.0), eqxopt.SGD(0.1)),
    "EMA": lambda: eqxopt.EMA(eqxopt.Accumulate(eqxopt.SGD(0.1), every=2), 0.9),
    "LBFGS": lambda: eqxopt.LBFGS(),
    "Lookahead": lambda: eqxopt.Lookahead(eqxopt.SGD(0.1), sync_period=3),
    "Mechanic": lambda: eqxopt.Mechanic(eqxopt.SGD(0.1)),
    "NoisySGD": lambda: eqxopt.NoisySGD(0.1),
    "ReduceOnPlateau": lambda: eqxopt.ReduceOnPlateau(eqxopt.SGD(0.1), patience=2),
    "SAM": lambda: eqxopt.SAM(eqxopt.SGD(0.1)),
    "ScheduleFree": lambda: eqxopt.ScheduleFree(eqxopt.SGD(0.1)),
    "SkipNonFinite": lambda: eqxopt.SkipNonFinite(eqxopt.Adam(0.1)),
    "SkipOnSpike": lambda: eqxopt.SkipOnSpike(eqxopt.Adam(0.1)),
}


@pytest.mark.parametrize("name", RESUMED)
def test_resumed_to_the_bits(name):
    """Wherever a run ends, two runs are one run: data, keys, losses, all arrays."""

    def noisy(x, rows, key):
        return loss_fn(x, rows + 0.1 * jax.random.normal(key))

    data = np.linspace(-1, 1, 7, dtype=np.float32)
    options = {"batch_size": 2, "key": KEY, "steps_per_call": 4}
    whole = eqxopt.fit(noisy, *started(RESUMED[name]()), data, steps=11, **options)
    for first in (1, 4, 6):
        part = eqxopt.fit(
            noisy, *started(RESUMED[name]()), data, steps=first, **options
        )
        rest = eqxopt.fit(noisy, *part[:2], data, steps=11 - first, **options)
        assert_equal(arrays(rest[:2]), arrays(whole[:2]))
        losses = np.concatenate([part[2].loss, rest[2].loss])
        np.testing.assert_array_equal(losses, whole[2].loss)
        np.testing.assert_array_equal(rest[2].step, np.arange(first, 11))
