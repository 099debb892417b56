"""The learning-rate range test."""

import itertools
import os
import signal
import sys
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training_loops import bits

import eqxopt
from eqxopt import schedules
from eqxopt._training._range import Ramp
from eqxopt._training.range_test import _check


KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (64, 3))
Y = jnp.sin(X[:, :1]) + 0.1 * jax.random.normal(jax.random.key(2), (64, 1))
MODEL = eqx.nn.MLP(3, 1, width_size=8, depth=1, key=jax.random.key(3))
OPTIONS = dict(low=1e-5, high=100.0, steps=150, progress=False)


def loss_fn(model, x, y):
    return jnp.mean((jax.vmap(model)(x) - y) ** 2)


def ranged(make=eqxopt.SGD, batches=(X, Y), model=MODEL, loss=loss_fn, **options):
    options = OPTIONS | options
    if isinstance(batches, tuple):
        options = dict(batch_size=16, key=KEY) | options
    return eqxopt.range_test(loss, model, make, batches, **options)


def rows(count):
    """Batches, as a loader gives them."""
    order = np.random.default_rng(0)
    for _ in range(count):
        chosen = order.integers(0, 64, 16)
        yield np.asarray(X)[chosen], np.asarray(Y)[chosen]


class TestRun:
    def test_is_that_of_fit(self):
        before = bits(eqx.filter(MODEL, eqx.is_array))
        result = ranged(steps=100)
        growth = result.rates[1] / result.rates[0]
        rate = schedules.ExponentialDecay(1e-5, 1, growth)
        opt = eqxopt.SGD(rate).init(MODEL)
        n = len(result.losses)
        *_, history = eqxopt.fit(
            loss_fn,
            MODEL,
            opt,
            (X, Y),
            batch_size=16,
            key=KEY,
            steps=n - 5,
            progress=False,
        )
        np.testing.assert_allclose(result.losses[: n - 5], history.loss, rtol=1e-3)
        np.testing.assert_allclose(result.rates, np.geomspace(1e-5, 100, 100)[:n])
        assert bits(eqx.filter(MODEL, eqx.is_array)) == before

    def test_result(self):
        result = ranged()
        assert result.stopped == "divergence"
        lowest = result.rates[np.argmin(result.smoothed)]
        assert result.suggestion == lowest / 2
        assert 0.01 < result.suggestion < 1
        assert len(result.rates) == len(result.losses) == len(result.smoothed) < 150
        assert f"half of {lowest:.2g}" in result.how
        assert f"diverged at the rate {result.rates[-1]:.2g}" in result.how
        assert str(result).startswith(
            f"Suggested learning rate: {result.suggestion:.2g}. It is half of"
        )
        with pytest.raises(ValueError, match="read-only"):
            result.losses[0] = 0

    def test_ends_soon_after_it_diverges(self):
        counted = []

        def counting():
            for batch in rows(150):
                counted.append(batch)
                yield batch

        result = ranged(batches=counting())
        assert result.stopped == "divergence"
        assert len(counted) <= len(result.losses) + 10

    def test_with_state_key_aux_and_residuals(self):
        class Counted(eqx.Module):
            linear: eqx.nn.Linear

        def stated(model, state, x, y, key):
            noise = 0.01 * jax.random.normal(key, y.shape)
            loss = jnp.mean((jax.vmap(model.linear)(x) + noise - y) ** 2)
            return loss, state + 1, {"loss": loss}

        model = Counted(eqx.nn.Linear(3, 1, key=KEY))
        given = dict(state=jnp.zeros(()), has_aux=True)
        assert ranged(loss=stated, model=model, **given).suggestion is not None

        def residual_fn(model, x, y):
            return (jax.vmap(model)(x) - y) / 4

        squares = ranged(loss=residual_fn, residuals=True)
        halves = ranged(loss=lambda model, x, y: loss_fn(model, x, y) / 2)
        assert np.isclose(squares.suggestion, halves.suggestion, rtol=0.1)

    def test_without_batches(self):
        scale = jnp.array([1.0, 10.0, 100.0])
        loss = lambda x: jnp.sum(scale * jnp.cosh(x))
        result = eqxopt.range_test(loss, jnp.ones(3), eqxopt.SGD, progress=False)
        # The curvature is at most 100, so rates below 0.02 do not diverge.
        assert 0.002 < result.suggestion < 0.02

    def test_accumulated(self):
        """The rate moves with the updates, and so do the losses."""
        make = lambda rate: eqxopt.Accumulate(eqxopt.SGD(rate), every=4)
        twice = [x for x in rows(150) for _ in range(4)]
        one = ranged(batches=rows(150))
        four = ranged(make, batches=twice)
        np.testing.assert_allclose(four.losses, one.losses, rtol=1e-2)
        assert four.suggestion == one.suggestion

    def test_compiles_once(self):
        traces = 0

        def counted(model, x, y):
            nonlocal traces
            traces += 1
            return loss_fn(model, x, y)

        ranged(loss=counted)
        ranged(loss=counted, low=1e-4, key=jax.random.key(5))
        assert traces == 1

    @pytest.mark.parametrize(
        "make",
        [
            lambda rate: eqxopt.Chain(eqxopt.ClipByGlobalNorm(1.0), eqxopt.Adam(rate)),
            lambda rate: eqxopt.SGD(0.5 * rate),
            lambda rate: eqxopt.SGD(lambda step: rate(step)),
            lambda rate: eqxopt.SGD(lambda path, x: rate),
            lambda rate: eqxopt.EMA(eqxopt.NoisySGD(rate, eta=1e-8), 0.9),
        ],
        ids=["chain", "product", "function", "choice", "key"],
    )
    def test_optimizers(self, make):
        assert ranged(make, steps=100).suggestion is not None

    def test_optax(self):
        optax = pytest.importorskip("optax")
        make = lambda rate: eqxopt.interop.FromOptax(optax.sgd(rate))
        with jax.numpy_dtype_promotion("standard"):
            result = ranged(make)
        np.testing.assert_allclose(result.suggestion, ranged().suggestion, rtol=0.1)


class TestConclusions:
    """What is said of runs that show no rate."""

    def says(self, result, stopped, *parts):
        assert result.suggestion is None and result.stopped == stopped
        assert all(part in result.how for part in parts), result.how
        assert str(result).startswith("Suggested learning rate: none. The run ")

    def test_never_falls(self):
        still = lambda model, x, y: jax.lax.stop_gradient(loss_fn(model, x, y))
        result = ranged(loss=still)
        self.says(result, None, "did not fall by more than noise", "`high`")
        zero = lambda model, x, y: jnp.zeros(()) * loss_fn(model, x, y)
        self.says(ranged(loss=zero), None, "did not fall")

    @pytest.mark.parametrize("steps", [60, 400])
    def test_noise(self, steps):
        """Is rarely taken for a fall, and rarely for the end of the run."""
        ramp = Ramp(1e-7, 10.0, steps, smoothing=0.25, divergence=3.0)
        results = [
            ramp.judged(2 + np.random.default_rng(i).normal(size=steps), None)
            for i in range(100)
        ]
        assert sum(x.suggestion is not None for x in results) <= 2
        assert sum(x.stopped is not None for x in results) <= 2

    def test_diverges_at_once(self):
        result = ranged(low=50.0, high=5e4)
        self.says(result, result.stopped, "did not fall", "`low=50` may be too high")
        assert result.stopped in ("divergence", "nonfinite")

    def test_lowest_near_low(self):
        ramp = Ramp(0.2, 1e3, 100, smoothing=0.1, divergence=3.0)
        losses = np.square(np.log10(ramp.rates(100) / 0.3))
        result = ramp.judged(losses, None)
        self.says(result, "divergence", "lowest at the rate 0.28", "lower `low=0.2`")

    def test_never_diverges(self):
        result = ranged(high=0.03)
        self.says(
            result, None, "reached the highest rate, 0.03", "`high` may be too low"
        )
        # It is where it was, however long it stays there.
        result = ranged(lambda rate: eqxopt.SGD(0.0 * rate))
        self.says(result, None, "`high` may be too low")

    def test_not_finite(self):
        """The warnings of `fit` are about what is expected here."""
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            result = ranged(divergence=1e30)
        assert result.stopped == "nonfinite" and result.suggestion is not None
        assert "infinite or NaN loss at the rate" in result.how
        assert np.all(np.isfinite(result.losses))
        nan = lambda model, x, y: jnp.nan * loss_fn(model, x, y)
        result = ranged(loss=nan)
        self.says(result, "nonfinite", "after 0 of 150 steps")
        assert result.rates.shape == result.smoothed.shape == (0,)

    def test_batches_end(self):
        result = ranged(batches=rows(40))
        self.says(result, "batches", "no more batches", "after 40 of 150", "cycle")
        # After it has diverged, there are enough.
        count = len(ranged(batches=rows(150)).losses)
        assert ranged(batches=rows(count)).suggestion is not None
        with pytest.raises(ValueError, match="`range_test`: there are 40 batches for"):
            ranged(batches=[*rows(40)])
        cycled = itertools.cycle(rows(40))
        assert ranged(batches=cycled).suggestion is not None

    def test_interrupted(self):
        def interrupted():
            for i, batch in enumerate(rows(150)):
                if i == 35:
                    os.kill(os.getpid(), signal.SIGINT)
                yield batch

        result = ranged(batches=interrupted())
        self.says(result, "SIGINT", "stopped by SIGINT", "let it go on")
        assert len(result.losses) < 150

    @pytest.mark.parametrize("shift", [-100.0, -1.0, 100.0])
    def test_of_a_shifted_loss(self, shift):
        """Losses may be negative, or near 0."""
        result = ranged(loss=lambda model, x, y: loss_fn(model, x, y) + shift)
        np.testing.assert_allclose(result.suggestion, ranged().suggestion, rtol=0.1)


class TestMistakes:
    @pytest.mark.parametrize(
        "make",
        [lambda rate: eqxopt.AdamW(1e-3), lambda rate: eqxopt.AdamW(rate(0))],
        ids=["constant", "first"],
    )
    def test_rate_is_not_used(self, make):
        with pytest.raises(ValueError, match="`make` does not use the learning rate"):
            ranged(make)

    def test_no_optimizer(self):
        with pytest.raises(TypeError, match="`make` must return an optimizer.*Scale"):
            ranged(lambda rate: eqxopt.Scale(rate))
        numbers = 1e-7, 10.0, 400, 0.25, 3.0
        with pytest.raises(TypeError, match="`make` must be a function.*not AdamW"):
            _check(MODEL, eqxopt.AdamW(1e-3), *numbers)

    def test_make_fails(self):
        with pytest.raises(TypeError) as caught:
            ranged(lambda rate: eqxopt.SGD(float(rate)))
        assert "a schedule as the learning rate" in caught.value.__notes__[0]

    @pytest.mark.parametrize(
        "options, message",
        [
            (dict(low=0.0), "0 < low < high"),
            (dict(low=1.0, high=0.1), "0 < low < high"),
            (dict(high=np.inf), "0 < low < high"),
            (dict(steps=20), "steps=20 are too few .* 35 at least"),
            (dict(smoothing=-1.0), "smoothing=-1.0 must be at least 0"),
            (dict(divergence=0.0), "divergence=0.0 above 0"),
            (dict(key=None), "`range_test`: data in memory needs a `key`"),
            (
                dict(batch_size=None),
                "`range_test`: data in memory needs a `batch_size`",
            ),
        ],
        ids=lambda x: "-".join(x) if isinstance(x, dict) else "",
    )
    def test_options(self, options, message):
        with pytest.raises(ValueError, match=message):
            ranged(**options)

    def test_accumulates_differently(self):
        schedule = schedules.Linear(1.0, 4.0, 10)
        make = lambda rate: eqxopt.Accumulate(eqxopt.SGD(rate), every=schedule)
        with pytest.raises(ValueError, match="every=.* must be a number here"):
            ranged(make)

    def test_inside_a_transformation(self):
        with pytest.raises(TypeError, match="cannot be part of a function"):
            eqx.filter_jit(lambda model: ranged(model=model).losses)(MODEL)


def test_smoothing():
    flat = Ramp(1e-7, 10.0, 100, smoothing=0.0, divergence=3.0)
    losses = np.random.default_rng(0).uniform(1, 2, size=100)
    losses[0] = 2
    np.testing.assert_allclose(flat.judged(losses, None).smoothed, losses)
    wide = Ramp(1e-7, 10.0, 100, smoothing=1e9, divergence=3.0)
    smoothed = wide.judged(losses, None).smoothed
    np.testing.assert_allclose(smoothed, np.mean(losses), rtol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        eqxopt.SGD,
        lambda rate: eqxopt.SGD(rate, momentum=0.9),
        eqxopt.Adam,
        eqxopt.Lion,
    ],
    ids=["SGD", "momentum", "Adam", "Lion"],
)
def test_beside_training(make):
    """The suggestion is near the best of constant rates, on real data."""
    datasets = pytest.importorskip("sklearn.datasets")
    images, labels = datasets.load_digits(return_X_y=True)
    data = images.astype(np.float32) / 16, labels.astype(np.int32)

    def make_model(key):
        return eqx.nn.MLP(64, 10, width_size=32, depth=1, key=key)

    def loss_fn(model, x, y):
        log_probs = jax.nn.log_softmax(jax.vmap(model)(x))
        return -jnp.mean(jnp.take_along_axis(log_probs, y[:, None], axis=1))

    options = dict(batch_size=64, key=KEY, progress=False)
    found = eqxopt.range_test(loss_fn, make_model(KEY), make, data, **options)
    points = {"learning_rate": np.geomspace(1e-3, 10**0.5, 8)}
    trained = eqxopt.sweep(
        loss_fn,
        make_model,
        lambda learning_rate: make(learning_rate),
        points,
        data,
        steps=300,
        **options,
    )
    ratio = found.suggestion / trained.best["learning_rate"]
    assert 1 / 5 < ratio < 5, (found, trained.best)


class TestPicture:
    def test_drawn(self):
        pytest.importorskip("matplotlib")
        result = ranged()
        (axes,) = result.draw().axes
        assert axes.get_xscale() == "log" and len(axes.lines) == 3
        labels = [x.get_text() for x in axes.get_legend().get_texts()]
        assert labels == ["smoothed", f"suggestion: {result.suggestion:.2g}"]
        low, high = axes.get_ylim()
        assert low < result.smoothed.min() and result.smoothed.max() < high

    def test_of_nothing(self):
        pytest.importorskip("matplotlib")
        nan = lambda model, x, y: jnp.nan * loss_fn(model, x, y)
        (axes,) = ranged(loss=nan).draw().axes
        assert len(axes.lines) == 2

    def test_without_matplotlib(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        with pytest.raises(ImportError, match="pip install matplotlib"):
            ranged().draw()
