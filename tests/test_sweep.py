"""`sweep` beside `fit`, run by run."""

import itertools
import math
import os
import signal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqxopt
from eqxopt._training._population import Population


KEY = jax.random.key(3)
X = jax.random.normal(jax.random.key(0), (40, 3))
Y = jnp.sin(X[:, :1])


def make_model(key):
    return eqx.nn.MLP(3, 1, width_size=4, depth=1, key=key)


def loss_fn(model, x, y):
    return jnp.mean((jax.vmap(model)(x) - y) ** 2)


def adamw(learning_rate, weight_decay=1e-2):
    return eqxopt.AdamW(learning_rate, weight_decay=weight_decay)


RATES = [1e-3, 1e-2, 1e-1]
OPTIONS = dict(key=KEY, steps=12, batch_size=8, steps_per_call=5, progress=False)


def swept(make=adamw, points=None, batches=(X, Y), **options):
    points = {"learning_rate": RATES} if points is None else points
    options = OPTIONS | options
    if not isinstance(batches, tuple):
        del options["batch_size"]
    make_model_ = options.pop("make_model", make_model)
    loss = options.pop("loss_fn", loss_fn)
    return eqxopt.sweep(loss, make_model_, make, points, batches, **options)


def keys_of(seed):
    return jax.random.split(jax.random.fold_in(KEY, seed))


def fitted(opt, seed, batches=(X, Y), steps=12):
    model_key, run_key = keys_of(seed)
    model = make_model(model_key)
    in_memory = isinstance(batches, tuple)
    options = dict(batch_size=8, key=run_key) if in_memory else {}
    return eqxopt.fit(
        loss_fn,
        model,
        opt.init(model),
        batches,
        steps=steps,
        progress=False,
        **options,
    )


def batches():
    return [(X[i : i + 8], Y[i : i + 8]) for i in range(0, 32, 8)] * 3


@pytest.mark.parametrize("chunk_size, seeds", [(None, [4, 7]), (2, [4, 7]), (1, [4])])
def test_each_run_is_that_of_fit(chunk_size, seeds):
    points = {"learning_rate": [1e-3, 1e-1], "weight_decay": [0.0, 0.5]}
    result = swept(points=points, seeds=seeds, chunk_size=chunk_size)
    assert result.programs == 1
    assert result.points[1] == {"learning_rate": 1e-3, "weight_decay": 0.5}
    for i, point in enumerate(result.points):
        for j, seed in enumerate(seeds):
            *_, history = fitted(adamw(**point), seed)
            np.testing.assert_allclose(result.loss[i, j], history.loss, rtol=1e-4)
            assert result.score[i, j] == pytest.approx(result.loss[i, j, -1])
    assert np.all(result.steps == 12)


@pytest.mark.parametrize("chunk_size", [1, 2])
def test_a_run_alone_does_only_its_own_branch(chunk_size):
    log = []

    def loss(model, x, y):
        note = lambda: jax.debug.callback(lambda: log.append(None))
        jax.lax.cond(jnp.max(model.layers[0].bias) > 1e9, note, lambda: None)
        return loss_fn(model, x, y)

    points = {"learning_rate": [1e-3, 1e-2]}
    swept(points=points, loss_fn=loss, chunk_size=chunk_size)
    jax.effects_barrier()
    assert bool(log) == (chunk_size > 1)


def test_of_the_best():
    result = swept(seeds=2)
    assert result.best == {"learning_rate": 0.1}
    seed = int(np.argmin(result.score[2]))
    model, opt, _ = fitted(adamw(0.1), seed)
    leaves = lambda tree: jax.tree.leaves(eqx.filter(tree, eqx.is_array))
    assert jax.tree.structure(result.opt) == jax.tree.structure(opt)
    for ours, expected in zip(leaves((result.model, result.opt)), leaves((model, opt))):
        assert (ours.dtype, ours.weak_type) == (expected.dtype, expected.weak_type)
        np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-5)
    goes_on = eqxopt.fit(
        loss_fn, result.model, result.opt, batches()[:2], progress=False
    )
    assert goes_on[2].step.tolist() == [12, 13]
    assert result.optimizer.learning_rate == jnp.float32(0.1)
    assert result.optimizer.count is None


@pytest.mark.parametrize("make_batches", [batches, lambda: iter(batches())])
def test_all_get_the_same_batches_of_an_iterable(make_batches):
    result = swept(batches=make_batches(), seeds=2)
    for seed in range(2):
        *_, history = fitted(adamw(1e-1), seed, batches())
        np.testing.assert_allclose(result.loss[2, seed], history.loss, rtol=1e-4)


def test_too_few_batches():
    with pytest.warns(UserWarning, match="made 12 of 20 steps"):
        result = swept(batches=iter(batches()), steps=20)
    assert np.all(result.steps == 12)
    assert np.isnan(result.loss[:, :, 12:]).all()
    assert np.isfinite(result.score).all()
    assert result.best == {"learning_rate": 0.1}


def test_too_few_batches_for_all_rungs():
    """What was trained until then is the result."""
    with pytest.warns(UserWarning, match="made 4 of 18 steps"):
        result = swept(batches=iter(batches()[:4]), steps=18, rungs=3)
    assert sorted(result.steps) == [2, 2, 4]
    assert result.best == result.points[int(np.argmax(result.steps))]
    assert result.model is not None and result.opt is not None


TARGET = 1.0


def test_what_functions_read_now(monkeypatch):
    """`evaluate` and `make_model` are compiled, and read what is there now."""
    scored = lambda model: jnp.sum(model) * TARGET
    start = lambda key: jnp.full((), TARGET)
    scores = []
    for target in (1.0, 1.0, 3.0):
        monkeypatch.setitem(globals(), "TARGET", target)
        result = eqxopt.sweep(
            lambda x: 0 * x,
            start,
            eqxopt.SGD,
            {"learning_rate": [0.1]},
            evaluate=scored,
            key=KEY,
            steps=1,
            progress=False,
        )
        scores.append(float(result.score[0, 0]))
    assert scores == [1.0, 1.0, 9.0]


def test_all_rows_and_no_batches():
    result = swept(batch_size=40)
    *_, history = fitted(adamw(1e-1), 0, itertools.repeat((X, Y)))
    np.testing.assert_allclose(result.loss[2, 0], history.loss, rtol=1e-4)
    square = lambda x: jnp.sum(x**2)
    result = eqxopt.sweep(
        square,
        lambda key: jnp.ones(2),
        eqxopt.SGD,
        {"learning_rate": [0.25, 0.5]},
        key=KEY,
        steps=2,
        progress=False,
    )
    np.testing.assert_allclose(result.loss[:, 0], [[2.0, 0.5], [2.0, 0.0]])


class Network(eqx.Module):
    linear: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    dropout: eqx.nn.Dropout

    def __init__(self, key):
        self.linear = eqx.nn.Linear(3, 1, key=key)
        self.norm = eqx.nn.BatchNorm(1, "batch", mode="batch")
        self.dropout = eqx.nn.Dropout(0.3)

    def __call__(self, x, state, key):
        x, state = self.norm(self.linear(x), state)
        return self.dropout(x, key=key), state


def stateful_loss(model, state, x, y, key):
    batched = jax.vmap(model, (0, None, 0), (0, None), axis_name="batch")
    out, state = batched(x, state, jax.random.split(key, len(x)))
    error = jnp.mean(jnp.abs(out - y))
    return jnp.mean((out - y) ** 2), state, {"error": error}


def test_state_randomness_and_scalars():
    make = eqx.nn.make_with_state(Network)
    result = swept(
        loss_fn=stateful_loss, make_model=make, has_state=True, has_aux=True, seeds=2
    )
    model_key, run_key = keys_of(1)
    model, state = make(model_key)
    *_, state, history = eqxopt.fit(
        stateful_loss,
        model,
        adamw(0.1).init(model),
        (X, Y),
        state=state,
        batch_size=8,
        key=run_key,
        has_aux=True,
        steps=12,
        progress=False,
    )
    np.testing.assert_allclose(result.loss[2, 1], history.loss, rtol=1e-4)
    np.testing.assert_allclose(result.aux["error"][2, 1], history.aux["error"], 1e-4)
    assert jax.tree.structure(result.state) == jax.tree.structure(state)


def test_different_optimizers_in_one_result():
    points = {"name": ["SGD", "Adam", "SOAP"], "learning_rate": [0.01, 0.1]}
    make = lambda name, learning_rate: getattr(eqxopt, name)(learning_rate)
    result = swept(make, points)
    assert result.programs == 3
    for i, point in enumerate(result.points):
        *_, history = fitted(make(**point), 0)
        np.testing.assert_allclose(result.loss[i, 0], history.loss, rtol=1e-3)


@pytest.mark.parametrize(
    "make",
    [
        lambda rate: eqxopt.Accumulate(eqxopt.SGD(rate), 2),
        lambda rate: eqxopt.SAM(eqxopt.SGD(rate), 0.05),
        lambda rate: eqxopt.AdamW(eqxopt.schedules.CosineDecay(rate, 12)),
        lambda rate: eqxopt.SkipNonFinite(eqxopt.NoisySGD(rate)),
        lambda rate: eqxopt.Muon(rate),
    ],
    ids=["Accumulate", "SAM", "schedule", "SkipNonFinite", "Muon"],
)
def test_composed(make):
    result = swept(make, {"rate": [1e-2, 1e-1]})
    assert result.programs == 1
    *_, history = fitted(make(1e-1), 0)
    np.testing.assert_allclose(result.loss[1, 0], history.loss, rtol=1e-3)


def test_what_all_runs_share_is_kept_once():
    """So a renewed basis stays a branch, and is not computed in every step."""

    def shared(make):
        group = swept(make, {"rate": [0.01, 0.1]})._population.groups[0]
        model = make_model(KEY)
        leaves = eqx.filter((model, make(0.1).init(model), None), eqx.is_array)
        paths = [jax.tree_util.keystr(p) for p, _ in jax.tree.leaves_with_path(leaves)]
        return {p for p, once in zip(paths, group.lanes.shared) if once}

    of_soap = shared(lambda rate: eqxopt.SOAP(rate))
    assert {"[1].count", "[1].b1"} <= of_soap
    assert "[1].learning_rate" not in of_soap
    nonfinite = shared(lambda rate: eqxopt.SkipNonFinite(eqxopt.SGD(rate)))
    assert not any("optimizer.count" in path for path in nonfinite)


def test_divergence_harms_no_other():
    alone = swept(eqxopt.SGD)
    with_it = swept(eqxopt.SGD, {"learning_rate": [*RATES, 1e30]})
    assert not np.isfinite(with_it.score[3]).any()
    np.testing.assert_allclose(with_it.loss[:3], alone.loss, rtol=1e-6)
    assert with_it.best == alone.best
    assert with_it.order[-1] == 3
    assert "inf" in str(with_it) or "nan" in str(with_it)


def test_halving():
    rates = [float(x) for x in np.geomspace(1e-4, 1e-1, 9)]
    points = {"learning_rate": rates}
    full = swept(points=points, seeds=2, steps=18, chunk_size=2)
    halved = swept(points=points, seeds=2, steps=18, rungs=3, keep=1 / 3)
    assert sorted(halved.steps.tolist()) == [2] * 6 + [6] * 2 + [18]
    for i, steps in enumerate(halved.steps):
        np.testing.assert_allclose(
            halved.loss[i, :, :steps], full.loss[i, :, :steps], rtol=1e-4
        )
        assert np.isnan(halved.loss[i, :, steps:]).all()
    first = np.mean(full.loss[:, :, 1], axis=1)
    assert set(np.flatnonzero(halved.steps > 2)) == set(np.argsort(first)[:3])
    assert halved.best == halved.points[halved.order[0]]
    assert halved.steps[halved.order[0]] == 18
    assert "steps" in str(halved)


def test_score():
    """By the parameters for evaluation, here averages."""
    make = lambda learning_rate: eqxopt.EMA(eqxopt.SGD(learning_rate), 0.9)
    norm = lambda model: jnp.sum(jnp.abs(model.layers[0].weight))
    result = swept(make, evaluate=norm, maximize=True)
    for i, rate in enumerate(RATES):
        model, opt, _ = fitted(make(rate), 0)
        expected = norm(opt.eval_params(model))
        assert result.score[i, 0] == pytest.approx(float(expected), rel=1e-4)
    assert result.best == result.points[int(np.argmax(result.score))]
    with pytest.raises(ValueError, match="`evaluate` must give a scalar"):
        swept(evaluate=lambda model: model.layers[0].bias)


@pytest.mark.parametrize("source", ["memory", "iterable", "rungs"])
def test_resume_is_as_if_it_had_not_stopped(monkeypatch, source):
    options = {"rungs": 2} if source == "rungs" else {"chunk_size": 1}
    data = (lambda: (X, Y)) if source != "iterable" else batches
    whole = swept(batches=data(), steps=12, **options)
    call, calls = Population._call, itertools.count()

    def interrupted(*args):
        call(*args)
        if next(calls) == 1:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Population, "_call", interrupted)
    part = swept(batches=data(), steps=12, **options)
    assert part.stopped == "SIGINT"
    assert "SIGINT" in str(part)
    assert part.best is None and part.model is None
    with pytest.raises(ValueError, match="no point has made all its steps"):
        part.optimizer
    result = part.resume()
    assert result.stopped is None
    np.testing.assert_array_equal(result.loss, whole.loss)
    np.testing.assert_array_equal(result.score, whole.score)
    assert result.best == whole.best


def test_too_large():
    with pytest.warns(UserWarning, match=r"with its 2 seeds may need .* GB"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("eqxopt._training._group._free_bytes", lambda: 1)
            result = swept(seeds=2)
    assert result.side_by_side == 2


def test_schedules_that_are_functions():
    make = lambda rate: eqxopt.SGD(lambda step: rate)
    with pytest.warns(UserWarning, match="need 3 programs.*eqxopt.schedules"):
        swept(make, {"rate": RATES})


@pytest.mark.parametrize(
    "error, match, options",
    [
        (
            ValueError,
            "for learning_rate=-1: .*learning_rate",
            {"points": {"learning_rate": [0.1, -1]}},
        ),
        (ValueError, "for rate=0.1: .*unexpected keyword", {"points": {"rate": [0.1]}}),
        (TypeError, "must return an optimizer", {"make": lambda learning_rate: 3}),
        (TypeError, "should be a list of values", {"points": {"learning_rate": 0.1}}),
        (ValueError, "no points", {"points": {"learning_rate": []}}),
        (ValueError, "the same names", {"points": [{"a": 1}, {"b": 1}]}),
        (
            ValueError,
            "`sweep`: data in memory needs a `batch_size`",
            {"batch_size": None},
        ),
        (
            ValueError,
            "without a length needs `steps`",
            {"batches": iter([]), "steps": None},
        ),
        (ValueError, "`sweep`: there is no batch", {"batches": iter([])}),
        (ValueError, "keep=2", {"keep": 2}),
        (ValueError, "seeds=0", {"seeds": 0}),
        (ValueError, "steps=0 must be at least 1", {"steps": 0}),
        (ValueError, "steps=-3 must be at least 1", {"steps": -3}),
        (ValueError, "chunk_size=0", {"chunk_size": 0}),
        (TypeError, "must give a model and a state", {"has_state": True}),
        (TypeError, "It is the model itself", {"make_model": make_model(KEY)}),
        (ValueError, "must give a scalar", {"loss_fn": lambda model, x, y: x}),
    ],
)
def test_errors(error, match, options):
    with pytest.raises(error, match=match):
        swept(**options)


@pytest.mark.parametrize(
    "points, labels",
    [
        ({"learning_rate": RATES}, ["learning_rate", "score"]),
        (
            {"learning_rate": RATES, "weight_decay": [0.0, 1.0]},
            ["learning_rate", "weight_decay"],
        ),
        (
            [{"learning_rate": x, "weight_decay": x} for x in RATES],
            ["learning_rate", "weight_decay"],
        ),
    ],
    ids=["one", "grid", "list"],
)
def test_picture(points, labels):
    pytest.importorskip("matplotlib")
    result = swept(points=points, seeds=2)
    figure = result.draw()
    scores, losses, *_ = figure.axes
    assert [scores.get_xlabel(), scores.get_ylabel()] == labels
    assert len(losses.lines) == min(5, len(result.points))


def test_table():
    result = swept(seeds=2)
    lines = str(result).splitlines()
    assert lines[0].startswith("6 runs of 12 steps in ")
    assert lines[1].split() == ["learning_rate", "score", "±", "std"]
    assert lines[2].split()[0] == "0.1"
    assert result.table(rows=1).splitlines()[-1] == "and 2 more points"


class TestRandomPoints:
    def test_within_the_intervals(self):
        points = eqxopt.random_points(
            KEY,
            400,
            rate=eqxopt.Between(1e-4, 1.0, log=True),
            b1=eqxopt.Between(0.5, 0.9),
        )
        rates = np.array([point["rate"] for point in points])
        b1 = np.array([point["b1"] for point in points])
        assert 1e-4 <= rates.min() and rates.max() <= 1.0
        assert 0.5 <= b1.min() and b1.max() <= 0.9
        assert abs(np.mean(np.log10(rates)) + 2) < 0.2
        assert abs(np.mean(b1) - 0.7) < 0.02
        assert points == eqxopt.random_points(
            KEY,
            400,
            rate=eqxopt.Between(1e-4, 1.0, log=True),
            b1=eqxopt.Between(0.5, 0.9),
        )

    @pytest.mark.parametrize(
        "interval", [(1.0, 0.1), (0.0, 1.0, True), (0.0, math.inf), (0.0, math.nan)]
    )
    def test_errors(self, interval):
        with pytest.raises(ValueError, match="`rate` cannot be drawn"):
            eqxopt.random_points(KEY, 3, rate=eqxopt.Between(*interval))
