"""Saving and loading: what comes back, what is refused, and what a kill leaves."""

import inspect
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import threading
import time
import zipfile

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import pytest
from cases import each, OPTIMIZERS, OWN_OPTIMIZERS, TRANSFORMS, WRAPPERS
from problems import CURVED, Model, small_params

import eqxopt
from eqxopt.schedules import Constant, ExponentialDecay, Linear


EVERY = {name: case.make for name, case in (OPTIMIZERS | OWN_OPTIMIZERS).items()}
EVERY |= {name: case.make for name, case in WRAPPERS.items()}
EVERY |= {
    name: lambda case=case: eqxopt.Chain(case.make(), eqxopt.SGD(0.1))
    for name, case in TRANSFORMS.items()
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.npz"


def assert_same(got, expected):
    """Equal to the bit, of equal types, and on the same devices."""
    assert jtu.tree_structure(got) == jtu.tree_structure(expected)
    leaves = zip(jtu.tree_leaves(got), jtu.tree_leaves_with_path(expected))
    for x, (where, y) in leaves:
        assert type(x) is type(y), where
        if not hasattr(y, "dtype"):
            assert x == y
            continue
        assert (x.dtype, x.shape) == (y.dtype, y.shape), where
        if isinstance(y, jax.Array):
            weak = getattr(x, "weak_type", None), getattr(y, "weak_type", None)
            assert weak[0] == weak[1], where
            assert (x.committed, x.sharding) == (y.committed, y.sharding), where
            if jnp.issubdtype(y.dtype, jax.dtypes.prng_key):
                x, y = jax.random.key_data(x), jax.random.key_data(y)
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes(), where


def zeroed(x):
    if not hasattr(x, "dtype"):
        return type(x)(0) if isinstance(x, int | float | complex) else x
    if isinstance(x, np.ndarray | np.generic):
        return x * 0
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(
            jnp.zeros_like(jax.random.key_data(x)), impl=jax.random.key_impl(x)
        )
    return jnp.zeros_like(x)


def trained(opt, model, steps=1):
    for i in range(steps):
        grads = jax.tree.map(jnp.sin, eqx.filter(model, eqx.is_inexact_array))
        model, opt = opt.apply(grads, model, **CURVED | {"value": 1.0 + i})
    return model, opt


def rows():
    mesh = jax.make_mesh((8,), ("x",))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))


def every_kind():
    key = jax.random.key(0)
    narrow = (jnp.bfloat16, jnp.float16, jnp.float8_e4m3fn, jnp.int4, jnp.uint8)
    return {
        "arrays": [jax.random.normal(key, shape) for shape in [(), (3,), (0, 2)]],
        "narrow": [jnp.arange(1, 4).astype(dtype) for dtype in narrow],
        "complex": jnp.asarray([1 + 2j, -0.5j], jnp.complex64),
        "odd": jnp.asarray([jnp.nan, -0.0, jnp.inf]),
        "bool": jnp.asarray([True, False]),
        "weak": (jnp.asarray(1.5), jnp.broadcast_to(jnp.asarray(2), (3,))),
        "keys": [key, jax.random.split(jax.random.key(1, impl="rbg"), 3)],
        "raw key": jax.random.PRNGKey(2),
        "numpy": [np.arange(6.0)[::2], np.asfortranarray(np.eye(3)), np.float64(2.0)],
        "numbers": (3, True, 0.1, 1j, -7),
        "rows": jax.device_put(jnp.arange(16.0), rows()),
        "third": jax.device_put(jnp.ones(2), jax.devices()[3]),
        "a/b.c[0]": jnp.ones(1),
        "rest": (jnp.tanh, "name", None),
    }


class TestRoundTrip:
    def test_every_kind_of_entry(self, path):
        tree = every_kind()
        eqxopt.save(path, tree)
        like = jax.tree.map(zeroed, tree)
        assert_same(eqxopt.load(path, like), tree)

    def test_into_shapes(self, path):
        tree = every_kind()
        eqxopt.save(path, tree)
        shape = lambda x: jax.ShapeDtypeStruct(
            x.shape,
            x.dtype,
            weak_type=getattr(x, "weak_type", False),
            sharding=x.sharding if x.committed else None,
        )
        like = jax.tree.map(lambda x: shape(x) if isinstance(x, jax.Array) else x, tree)
        assert_same(eqxopt.load(path, like), tree)

    def test_into_a_run_that_was_never_made(self, path):
        make = lambda: (Model(), eqxopt.AdamW(0.1).init(Model()))
        run = trained(*make()[::-1])
        eqxopt.save(path, run)
        like = eqx.filter_eval_shape(make)
        got = eqxopt.load(path, like)
        assert_same(
            jax.tree.leaves(trained(*got[::-1])), jax.tree.leaves(trained(*run[::-1]))
        )
        at = r"`like` has only a shape at \[1\]"
        with pytest.raises(ValueError, match=at + r"\.learning_rate"):
            eqxopt.load(path, like, hyperparameters="own")
        with pytest.raises(ValueError, match=at):
            eqxopt.load(path, like, only=(True, False))

    def test_double_precision(self, path, x64):
        tree = {"x": jnp.arange(3.0), "n": jnp.arange(3), "z": jnp.ones(2, complex)}
        eqxopt.save(path, tree)
        assert_same(eqxopt.load(path, jax.tree.map(zeroed, tree)), tree)

    @pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.complex64])
    def test_every_dtype_of_a_model(self, dtype, path):
        params = small_params(dtype)
        opt = eqxopt.EMA(eqxopt.AdamW(0.1, mu_dtype=dtype), 0.9)
        run = trained(opt.init(params), params)
        eqxopt.save(path, run)
        assert_same(eqxopt.load(path, jax.tree.map(zeroed, run)), run)

    def test_a_whole_run(self, path):
        """A model with functions, an optimizer, the state of layers, a key, counts. It
        goes on to the bit."""
        norm, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(3, "b", mode="batch")
        _, state = jax.vmap(norm, axis_name="b", in_axes=(0, None), out_axes=(0, None))(
            jnp.ones((4, 3)), state
        )
        model, opt = trained(eqxopt.AdamW(0.1).init(Model()), Model(), 2)
        run = {"model": model, "opt": opt, "state": state, "norm": norm}
        run |= {"key": jax.random.key(5), "step": 17}
        eqxopt.save(path, run)
        fresh, fresh_state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(
            3, "b", mode="batch"
        )
        other = Model(jax.random.key(1))
        like = {"model": other, "opt": eqxopt.AdamW(0.3).init(other), "norm": fresh}
        like |= {"state": fresh_state, "key": jax.random.key(0), "step": 0}
        got = eqxopt.load(path, like)
        assert_same(jax.tree.leaves(got), jax.tree.leaves(run))
        assert got["model"].activation is model.activation
        assert_same(trained(got["opt"], got["model"])[0], trained(opt, model)[0])

    def test_nothing_compiles_again(self, path):
        step = jax.jit(lambda opt, p, g: opt.apply(g, p))
        params = small_params()
        params, opt = step(eqxopt.AdamW(0.1).init(params), params, params)
        step(opt, params, params)
        eqxopt.save(path, (params, opt))
        programs = step._cache_size()
        loaded, opt = eqxopt.load(
            path, (params, eqxopt.AdamW(0.1).init(small_params()))
        )
        step(opt, loaded, params)
        assert step._cache_size() == programs

    def test_a_single_array(self, path):
        eqxopt.save(path, jnp.arange(3))
        np.testing.assert_array_equal(eqxopt.load(path, jnp.zeros(3, int)), [0, 1, 2])

    def test_an_empty_tree(self, path):
        eqxopt.save(path, {})
        assert eqxopt.load(path, {}) == {}

    def test_numpy_reads_it(self, path):
        eqxopt.save(path, {"w": jnp.arange(3.0), "n": 2})
        file = np.load(path)
        np.testing.assert_array_equal(file["['w']"], [0, 1, 2])
        assert file["['n']"] == 2

    def test_version_1(self, path):
        """The format as it was first released stays readable."""
        header = {
            "version": 1,
            "eqxopt": "0.1.0",
            "entries": {
                "['w']": {"dtype": "float32", "shape": [2]},
                "['half']": {"dtype": "bfloat16", "shape": [1]},
                "['key']": {"dtype": "key threefry2x32", "shape": []},
                "['step']": {"dtype": "Python int", "shape": []},
            },
            "classes": {},
        }
        np.savez(
            path,
            **{
                "['w']": np.float32([1, 2]),
                "['half']": np.uint16([0x3F80]),
                "['key']": np.uint32([0, 7]),
                "['step']": np.int64(3),
            },
        )
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("checkpoint.json", json.dumps(header))
        like = {"w": jnp.zeros(2), "half": jnp.zeros(1, jnp.bfloat16)}
        like |= {"key": jax.random.key(0), "step": 0}
        expected = {"w": jnp.asarray([1.0, 2.0]), "half": jnp.ones(1, jnp.bfloat16)}
        expected |= {"key": jax.random.key(7), "step": 3}
        assert_same(eqxopt.load(path, like), expected)


class TestSharding:
    @pytest.mark.parametrize("kind", ["Auto", "Explicit"])
    def test_into_an_optimizer_initialised_eagerly(self, kind, path):
        """The next step works, and keeps where everything lies."""
        axis = getattr(jax.sharding.AxisType, kind)
        mesh = jax.make_mesh((8,), ("x",), axis_types=(axis,))
        spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
        params = {"w": jax.device_put(jnp.arange(32.0).reshape(16, 2), spread)}
        run = trained(eqxopt.AdamW(0.1).init(params), params)
        eqxopt.save(path, run)
        like = jax.tree.map(zeroed, params)
        got = eqxopt.load(path, (like, eqxopt.AdamW(0.1).init(like)))
        assert got[0]["w"].sharding.is_equivalent_to(spread, 2)
        assert got[1].state["w"].mu.sharding.is_equivalent_to(spread, 2)
        assert_same(trained(*got[::-1])[0], trained(*run[::-1])[0])

    def test_from_one_device_to_many(self, path):
        params = {"w": jnp.arange(16.0)}
        eqxopt.save(path, params)
        like = {"w": jax.device_put(jnp.zeros(16), rows())}
        got = eqxopt.load(path, like)["w"]
        assert got.sharding == rows()
        np.testing.assert_array_equal(got, params["w"])

    def test_shapes_of_an_explicit_mesh(self, path):
        mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Explicit,))
        with jax.set_mesh(mesh):
            x = jax.device_put(jnp.arange(16.0), jax.sharding.PartitionSpec("x"))
            eqxopt.save(path, x)
            got = eqxopt.load(path, jax.eval_shape(lambda: 2 * x))
            assert got.sharding == x.sharding
            np.testing.assert_array_equal(got, x)


def refused(path, like, **options):
    with pytest.raises(ValueError) as error:
        eqxopt.load(path, like, **options)
    return str(error.value)


class TestNames:
    def test_every_difference(self, path):
        eqxopt.save(
            path, {"a": jnp.ones(2), "b": jnp.ones(2), "c": jnp.ones(2), "n": 1}
        )
        like = {"a": jnp.ones((2, 1)), "b": jnp.ones(2, jnp.bfloat16), "d": 1, "n": 1.0}
        message = refused(path, like)
        for line in (
            "['a']: float32 (2,) in the file, float32 (2, 1) in `like`",
            "['b']: float32 (2,) in the file, bfloat16 (2,) in `like`",
            "['n']: Python int in the file, Python float in `like`",
            "missing in the file:\n  ['d']: Python int\n",
            "missing in `like`:\n  ['c']: float32 (2,)\n",
            "`only=lambda path, array: ...`",
        ):
            assert line in message
        assert str(path) in message

    def test_an_algorithm_of_keys(self, path):
        eqxopt.save(path, jax.random.key(0))
        message = refused(path, jax.random.key(0, impl="rbg"))
        assert "the root" not in message
        assert ": key threefry2x32 in the file, key rbg in `like`" in message

    def test_long_lists_end(self, path):
        eqxopt.save(path, [jnp.ones(())] * 50)
        message = refused(path, [jnp.ones((1,))] * 50)
        assert "[19]" in message and "[20]" not in message and "and 30 more" in message

    def test_a_field_less(self, path):
        """A file without names would fill the fields that are left with others'."""

        def scaled(with_floor):
            class Scaled(eqx.Module):
                if with_floor:
                    floor: jax.Array
                scale: jax.Array

            numbers = [jnp.ones(())] * (1 + with_floor)
            return Scaled(*numbers)

        eqxopt.save(path, scaled(True))
        assert "missing in `like`:\n  .floor" in refused(path, scaled(False))

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            (eqxopt.NAdamW(0.1), eqxopt.AdamW(0.1)),
            (eqxopt.SGD(0.1), eqxopt.SignSGD(0.1)),
            (
                eqxopt.EMA(eqxopt.NAdam(0.1), 0.9),
                eqxopt.EMA(eqxopt.Adam(0.1), 0.9),
            ),
            (
                eqxopt.Chain(eqxopt.ClipByNorm(1.0), eqxopt.SGD(0.1)),
                eqxopt.Chain(eqxopt.ClipByValue(1.0), eqxopt.SGD(0.1)),
            ),
        ],
        ids=lambda opt: type(opt).__name__,
    )
    def test_another_optimizer(self, old, new, path):
        params = small_params()
        eqxopt.save(path, old.init(params))
        message = refused(path, new.init(params))
        assert "of another class:" in message
        assert "in the file, `" in message and "renamed={'" in message

    def test_another_schedule(self, path):
        """Of the same fields, so that only the name of the class tells."""

        class Steep(eqxopt.schedules.AbstractSchedule):
            value: jax.Array

            def __call__(self, step):
                return self.value

        params = small_params()
        opt = eqxopt.SGD(Constant(0.1))
        assert [f.name for f in Constant.__dataclass_fields__.values()] == ["value"]
        eqxopt.save(path, opt.init(params))
        other = eqxopt.SGD(Steep(jnp.asarray(0.1))).init(params)
        message = refused(path, other)
        assert ".learning_rate: `Constant` in the file, `Steep` in `like`" in message
        got = eqxopt.load(path, other, hyperparameters="own")
        assert type(got.learning_rate) is Steep

    def test_a_class_with_a_new_name(self, path):
        params = small_params()
        run = trained(eqxopt.NAdamW(0.1).init(params), params)
        eqxopt.save(path, run)
        like = params, eqxopt.AdamW(0.1).init(params)
        _, got = eqxopt.load(path, like, renamed={"NAdamW": "AdamW"})
        assert_same(got.state, run[1].state)

    def test_before_init(self, path):
        params = small_params()
        eqxopt.save(path, (params, eqxopt.AdamW(0.1).init(params)))
        message = refused(path, (params, eqxopt.AdamW(0.1)))
        assert "`AdamW` in `like` has no state: call `opt.init(model)`" in message

    def test_static_things_are_the_scripts(self, path):
        model = eqx.nn.MLP(2, 2, 3, 1, activation=jnp.tanh, key=jax.random.key(0))
        eqxopt.save(path, model)
        like = eqx.nn.MLP(2, 2, 3, 1, activation=jnp.sin, key=jax.random.key(1))
        got = eqxopt.load(path, like)
        assert got.activation is like.activation
        assert_same(got.layers, model.layers)


def exchanged(opt, values):
    """`opt` with other hyperparameters, of those that are one number."""
    numbers = {name: x for name, x in values.items() if not isinstance(x, dict)}
    for name, number in numbers.items():
        opt = opt.replace(**{name: number})
    return opt


def with_other_numbers(opt):
    for name, value in opt.hyperparameters().items():
        for other in (value / 2, value * 2):
            try:
                opt = exchanged(opt, {name: other})
                break
            except ValueError:  # out of range
                continue
    return opt


@pytest.mark.parametrize("name", each(EVERY))
def test_every_optimizer(name, path):
    """Into a fresh optimizer for another model, whose hyperparameters are others."""
    params = small_params()
    run = trained(EVERY[name]().init(params), params)
    eqxopt.save(path, run)
    other = small_params(seed=1)
    like = other, with_other_numbers(EVERY[name]().init(other))
    assert_same(eqxopt.load(path, like), run)
    model, opt = eqxopt.load(path, like, hyperparameters="own")
    assert_same(model, run[0])
    assert_same(opt.hyperparameters(), like[1].hyperparameters())
    assert_same(exchanged(opt, run[1].hyperparameters()), run[1])


class TestHyperparameters:
    @pytest.mark.parametrize(
        "wrap",
        [
            lambda opt: opt,
            lambda opt: eqxopt.Chain(eqxopt.ClipByGlobalNorm(1.0), opt),
            lambda opt: eqxopt.EMA(eqxopt.Accumulate(opt, 2), 0.9),
            lambda opt: eqxopt.masked(opt, lambda path, array: array.ndim > 1),
            lambda opt: eqxopt.Muon(0.1, fallback=opt),
        ],
    )
    @pytest.mark.parametrize(
        ("old", "new"),
        [
            (0.1, Linear(1.0, 0.0, 10)),
            (Linear(1.0, 0.0, 10), 0.1),
            (Linear(1.0, 0.0, 10), ExponentialDecay(1.0, 10, 0.5)),
            (0.1, lambda path, array: 0.5 if array.ndim else 0.2),
            (0.1, lambda step: jnp.where(step < 5, 0.1, 0.2)),
        ],
    )
    def test_of_another_form(self, wrap, old, new, path):
        params = small_params()
        make = lambda rate: wrap(eqxopt.SGD(rate, momentum=0.9)).init(params)
        run = trained(make(old), params)
        eqxopt.save(path, run)
        like = params, make(new)
        message = refused(path, like)
        assert "learning_rate" in message
        assert '`hyperparameters="own"` keeps what `like` has at [1]' in message
        _, got = eqxopt.load(path, like, hyperparameters="own")
        assert jtu.tree_structure(got) == jtu.tree_structure(like[1])
        states = [
            [x for where, x in jtu.tree_leaves_with_path(opt) if "state" in str(where)]
            for opt in (got, run[1])
        ]
        assert_same(*states)
        assert got.count == run[1].count

    def test_of_a_line_search(self, path):
        params = small_params()
        search = eqxopt.BacktrackingLineSearch(20)
        make = lambda search: eqxopt.LBFGS(linesearch=search).init(params)
        eqxopt.save(path, make(search))
        other = make(eqxopt.ZoomLineSearch(20))
        assert ".linesearch" in refused(path, other)
        got = eqxopt.load(path, other, hyperparameters="own")
        assert type(got.linesearch) is eqxopt.ZoomLineSearch

    def test_unknown_choice(self, path):
        with pytest.raises(ValueError, match="'stored' or 'own', not 'new'"):
            inspect.unwrap(eqxopt.load)(path, (), hyperparameters="new")


def with_head(width, key=9):
    model = Model()
    head = eqx.nn.Linear(4, width, key=jax.random.key(key))
    return eqx.tree_at(lambda model: model.layers[1], model, head)


def but_the_head(path, array):
    return ".layers[1]" not in path


class TestAnotherHead:
    @pytest.mark.parametrize(
        "opt",
        [
            eqxopt.AdamW(0.1),
            eqxopt.Adafactor(0.1, momentum=0.9),
            eqxopt.Muon(0.1),
            eqxopt.SGD(lambda path, array: 0.1 * (1 + array.ndim), momentum=0.9),
            eqxopt.EMA(eqxopt.AdEMAMix(0.1), 0.9),
            eqxopt.Partition(
                {"a": eqxopt.Lion(0.1), "b": eqxopt.Rprop(0.1)},
                lambda path, array: "a" if array.ndim > 1 else "b",
            ),
        ],
        ids=lambda opt: type(opt).__name__,
    )
    def test_the_others_go_on_to_the_bit(self, opt, path):
        old = trained(opt.init(with_head(2)), with_head(2), 2)
        eqxopt.save(path, old)
        fresh = with_head(3)
        like = fresh, opt.init(fresh)
        assert ".layers[1].weight: float32 (2, 4)" in refused(path, like)
        model, moved = eqxopt.load(path, like, only=but_the_head)
        assert_same(model.layers[1], fresh.layers[1])
        assert_same(model.layers[0], old[0].layers[0])
        expected, _ = trained(old[1], old[0])
        got, _ = trained(moved, model)
        assert_same(got.layers[0], expected.layers[0])
        assert_same(got.scale, expected.scale)

    def test_a_layer_more_and_a_layer_less(self, path):
        model = Model()
        eqxopt.save(path, model)
        extra = eqx.nn.Linear(2, 2, key=jax.random.key(3))
        longer = eqx.tree_at(lambda m: m.layers, model, [*model.layers, extra])
        shorter = eqx.tree_at(lambda m: m.layers, model, model.layers[:1])
        got = eqxopt.load(path, longer, only=lambda path, array: "[2]" not in path)
        assert_same(got, longer)
        assert_same(eqxopt.load(path, shorter, only=but_the_head), shorter)
        assert ".layers[1].weight" in refused(path, shorter)

    def test_the_model_alone(self, path):
        run = trained(eqxopt.AdamW(0.1).init(Model()), Model())
        eqxopt.save(path, run)
        opt = eqxopt.Lion(0.1).init(Model())
        for like in ((Model(), opt), (Model(), None)):
            model, rest = eqxopt.load(path, like, only=(True, False))
            assert_same(model, run[0])
            assert rest is like[1] or rest.count == 0
        names = {"model": run[0], "opt": run[1]}
        eqxopt.save(path, names)
        got = eqxopt.load(
            path, {"model": Model(), "opt": opt}, only={"model": True, "opt": False}
        )
        assert_same(got["model"], run[0])

    def test_by_the_array(self, path):
        eqxopt.save(
            path,
            {"w": jnp.ones((2, 2)), "b": jnp.ones(2), "key": jax.random.key(1), "n": 3},
        )
        like = {
            "w": jnp.zeros((2, 2)),
            "b": jnp.zeros(3),
            "key": jax.random.key(0),
            "n": 0,
        }
        got = eqxopt.load(path, like, only=lambda path, array: array.ndim != 1)
        assert_same(
            got, like | {"w": jnp.ones((2, 2)), "key": jax.random.key(1), "n": 3}
        )

    def test_selectors_that_do_not_fit(self, path):
        eqxopt.save(path, (jnp.ones(2), jnp.ones(2)))
        like = jnp.zeros(2), jnp.zeros(2)
        with pytest.raises(ValueError, match="`only` has no entry for \\[1\\]"):
            eqxopt.load(path, like, only={0: True})
        with pytest.raises(
            ValueError, match="an entry at \\[2\\], where `like` has none"
        ):
            eqxopt.load(path, like, only=(True, False, True))
        with pytest.raises(ValueError, match="`only` selects no entry"):
            eqxopt.load(path, like, only=lambda path, array: "head" in path)
        with pytest.raises(TypeError, match="`only` at \\[0\\] must be True or False"):
            eqxopt.load(path, like, only=lambda path, array: None)
        with pytest.raises(TypeError, match="`only` at \\[1\\] must be True or False"):
            eqxopt.load(path, like, only=(True, 1))
        with pytest.raises(TypeError, match="takes \\(path, array\\)"):
            eqxopt.load(path, like, only=lambda path: True)


class TestFiles:
    def test_paths(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        pathlib.Path("runs").mkdir()
        for path in (
            "one",
            "runs/two.npz",
            pathlib.Path("three.x.y"),
            tmp_path / "four",
        ):
            eqxopt.save(path, jnp.ones(2))
            assert_same(eqxopt.load(path, jnp.zeros(2)), jnp.ones(2))
        names = {"one", "runs", "three.x.y", "four"}
        assert {x.name for x in tmp_path.iterdir()} == names
        assert os.listdir("runs") == ["two.npz"]

    def test_a_file_is_replaced(self, path):
        eqxopt.save(path, {"a": jnp.ones(1000)})
        eqxopt.save(path, {"b": jnp.ones(2)})
        assert_same(eqxopt.load(path, {"b": jnp.zeros(2)}), {"b": jnp.ones(2)})

    def test_equal_trees_make_equal_files(self, path, tmp_path):
        eqxopt.save(path, every_kind())
        time.sleep(0.01)
        eqxopt.save(tmp_path / "again", every_kind())
        assert path.read_bytes() == (tmp_path / "again").read_bytes()

    def test_a_link_stays(self, path, tmp_path):
        (tmp_path / "latest").symlink_to(path)
        eqxopt.save(tmp_path / "latest", jnp.ones(2))
        assert (tmp_path / "latest").is_symlink()
        assert_same(eqxopt.load(path, jnp.zeros(2)), jnp.ones(2))

    def test_no_place(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no directory '.*nowhere'"):
            eqxopt.save(tmp_path / "nowhere" / "run", jnp.ones(2))
        with pytest.raises(IsADirectoryError, match="is a directory"):
            eqxopt.save(tmp_path, jnp.ones(2))
        with pytest.raises(FileNotFoundError):
            eqxopt.load(tmp_path / "run", jnp.ones(2))
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("broken", ["open", "fsync", "replace"])
    def test_a_directory_that_cannot_be_written(self, broken, path, monkeypatch):
        eqxopt.save(path, jnp.ones(2))

        def fail(*_, **__):
            raise PermissionError("read-only")

        with monkeypatch.context() as patch:
            patch.setattr(os, broken, fail)
            with pytest.raises(PermissionError, match="read-only"):
                eqxopt.save(path, jnp.zeros(2))
        assert os.listdir(path.parent) == ["run.npz"]
        assert_same(eqxopt.load(path, jnp.zeros(2)), jnp.ones(2))

    def test_what_cannot_be_stored(self, path):
        eqxopt.save(path, jnp.ones(2))
        gone = jnp.ones(3)
        gone.delete()
        with pytest.raises(ValueError, match=r"`save`: \['x'\] was donated or deleted"):
            eqxopt.save(path, {"x": gone})
        with pytest.raises(TypeError, match=r"\[1\] has the dtype <U1"):
            eqxopt.save(path, [jnp.ones(2), np.array(["a"])])
        with pytest.raises(TypeError, match=r"\[0\] has the dtype object"):
            eqxopt.save(path, [2**70])
        with pytest.raises(TypeError, match="the root is a `ShapeDtypeStruct`"):
            eqxopt.save(path, jax.ShapeDtypeStruct((2,), jnp.float32))
        with pytest.raises(
            TypeError, match="the root is a tracer: call `save` outside"
        ):
            jax.jit(lambda x: eqxopt.save(path, x))(jnp.ones(2))
        assert os.listdir(path.parent) == ["run.npz"]
        assert_same(eqxopt.load(path, jnp.zeros(2)), jnp.ones(2))

    def test_a_newer_version(self, path, monkeypatch):
        monkeypatch.setattr(eqxopt._training._archive, "VERSION", 2)
        eqxopt.save(path, jnp.ones(2))
        monkeypatch.undo()
        message = refused(path, jnp.ones(2))
        assert "in version 2 of the format" in message
        assert "reads up to version 1: install a newer one" in message

    def test_other_files(self, path):
        path.write_text("not a checkpoint")
        assert "is damaged, or is no file of `eqxopt.save`" in refused(
            path, jnp.ones(2)
        )
        path.write_bytes(b"")
        assert "is damaged" in refused(path, jnp.ones(2))
        np.savez(path, a=np.ones(2))
        assert "no file of `eqxopt.save`" in refused(path, jnp.ones(2))
        eqx.tree_serialise_leaves(path, jnp.ones(2))
        assert "no file of `eqxopt.save`" in refused(path, jnp.ones(2))

    def test_truncated_at_any_place(self, path):
        tree = {"a": jnp.arange(300.0), "b": jnp.arange(3)}
        eqxopt.save(path, tree)
        whole = path.read_bytes()
        for length in range(0, len(whole), 37):
            path.write_bytes(whole[:length])
            assert "is damaged" in refused(path, tree)

    def test_a_changed_byte_anywhere(self, path):
        """It is found, or is one that says nothing."""
        tree = {"a": jnp.arange(300.0), "b": jnp.arange(3)}
        eqxopt.save(path, tree)
        whole = path.read_bytes()
        refusals = 0
        for i in range(0, len(whole), 13):
            path.write_bytes(whole[:i] + bytes([whole[i] ^ 0x55]) + whole[i + 1 :])
            try:
                assert_same(eqxopt.load(path, tree), tree)
            except ValueError:
                refusals += 1
        assert refusals > len(whole) / 13 / 2

    def test_several_threads(self, path):
        trees = [{"x": jnp.full(10_000, float(i))} for i in range(4)]

        def saves(tree):
            for _ in range(5):
                eqxopt.save(path, tree)

        threads = [threading.Thread(target=saves, args=(tree,)) for tree in trees]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        got = eqxopt.load(path, trees[0])["x"]
        assert jnp.all(got == got[0])
        assert os.listdir(path.parent) == ["run.npz"]


# For each line it reads, a child that saves until it is killed. It has NumPy's arrays
# only: JAX starts no threads, so that it can fork.
WRITER = """
import os, sys
import numpy as np
import eqxopt

def tree(i):
    return {"number": i, "arrays": [np.full((256, 1024), i, np.float32)] * 4}

eqxopt.save(sys.argv[1], tree(0))
print("ready", flush=True)
for line in sys.stdin:
    i = int(line)
    if (pid := os.fork()) == 0:
        while True:
            i += 1
            eqxopt.save(sys.argv[1], tree(i))
            os.write(1, f"saved {i}\\n".encode())
    os.write(1, f"started {pid}\\n".encode())
    os.waitpid(pid, 0)
    print("killed", flush=True)
"""


def test_kills_at_random_moments(path, kills=8):
    """The file is always complete, and is the last one or the one that was under
    way."""
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    moments = random.Random(0)
    like = {"number": 0, "arrays": [np.zeros((256, 1024), np.float32)] * 4}
    last, leftovers = 0, 0
    with writer:
        assert writer.stdout.readline() == "ready\n"
        for _ in range(kills):
            writer.stdin.write(f"{last}\n")
            for line in writer.stdout:
                event, *number = line.split()
                if event == "saved":
                    last = int(number[0])
                elif event == "started":
                    time.sleep(moments.uniform(0.005, 0.15))
                    os.kill(int(number[0]), signal.SIGKILL)
                else:
                    break
            got = eqxopt.load(path, like)
            assert got["number"] in (last, last + 1)
            assert all(np.all(x == got["number"]) for x in got["arrays"])
            names = set(os.listdir(path.parent))
            assert names <= {"run.npz", ".run.npz.tmp"}
            last, leftovers = got["number"], leftovers + len(names) - 1
        writer.stdin.close()
    assert leftovers  # some kill came in the middle of a save
    eqxopt.save(path, like)
    assert os.listdir(path.parent) == ["run.npz"]
