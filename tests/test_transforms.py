"""What every transform keeps: the contract, case by case."""

import io

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import each, OWN_TRANSFORMS, TRANSFORMS as TABLE
from problems import Model, params_and_still, small_params, still_loss as loss
from training_loops import (
    assert_close,
    assert_equal,
    avals,
    downhill,
    last_step as step,
    moved,
)

import eqxopt
from eqxopt import schedules


TRANSFORMS = TABLE | OWN_TRANSFORMS


# All tests of one case run in a row, so that they share compiled programs.
every_transform = pytest.mark.parametrize("name", each(TRANSFORMS), scope="module")
STATEFUL = ["ClipByGlobalNorm", "Normalize", "ZeroNaNs"]
WITH_NUMBERS = [
    name for name in TRANSFORMS if TRANSFORMS[name].make().hyperparameters()
]
DTYPES = [
    (jnp.float32, jnp.bfloat16),
    (jnp.bfloat16, jnp.float32),
    (jnp.float16, jnp.float16),
    (jnp.float64, jnp.float32),
    (jnp.float32, jnp.float64),
    (jnp.complex64, jnp.complex64),
    (jnp.complex64, jnp.float32),
]


@every_transform
class TestSameInSameOut:
    def test_every_leaf_is_an_array(self, name):
        transform = TRANSFORMS[name].make()
        params = small_params()
        made = transform.init(params)
        _, after = made.update(params, params)
        for tree in (transform, made, after):
            assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(tree))

    @pytest.mark.parametrize("dtype, grad_dtype", DTYPES)
    def test_avals_and_treedef(self, name, dtype, grad_dtype, x64):
        case = TRANSFORMS[name]
        params, grads = small_params(dtype), small_params(grad_dtype, seed=1)
        if jnp.issubdtype(dtype, jnp.complexfloating) and not case.complex:
            with pytest.raises(TypeError, match=rf"`{name}`: a complex parameter"):
                case.make().init(params)
            return

        def one_step():
            made = case.make().init(params)
            return made, *made.update(grads, params)

        made, updates, after = jax.eval_shape(one_step)
        assert avals(made) == avals(after)
        wide = jnp.float32 if jnp.finfo(dtype).bits < 32 else dtype
        assert {x.dtype for x in jax.tree.leaves(updates)} == {jnp.dtype(wide)}
        assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, params)

    def test_one_trace(self, name):
        """One program does ten steps, and steps with other numbers."""
        made = transform = TRANSFORMS[name].make().init(small_params())
        params, grads = small_params(), small_params(seed=1)
        params, transform = step(transform, params, grads)
        programs = step._cache_size()
        for _ in range(9):
            params, transform = step(transform, params, grads)
        for field in made.hyperparameters():
            step(made.replace(**{field: 0.6}), params, grads)
        assert step._cache_size() == programs

    def test_scan_equals_loop(self, name):
        params = small_params()
        transform = TRANSFORMS[name].make().init(params)
        grads = [small_params(seed=i) for i in range(1, 4)]
        looped = (params, transform)
        for g in grads:
            looped = step(looped[1], looped[0], g)
        stacked = jax.tree.map(lambda *x: jnp.stack(x), *grads)
        scanned, _ = jax.lax.scan(
            lambda carry, g: (step(carry[1], carry[0], g), None),
            (params, transform),
            stacked,
        )
        assert_close(scanned, looped, 1e-5)

    def test_donation_right_after_init(self, name):
        params, grads = small_params(), small_params(seed=1)
        transform = TRANSFORMS[name].make().init(params)
        expected = step(transform, params, grads)
        donating = jax.jit(step, donate_argnums=(0, 1))
        assert_close(donating(transform, params, grads), expected, 1e-5)
        assert transform.count.is_deleted()

    def test_init_under_jit_and_eval_shape(self, name):
        params = small_params()
        init = lambda p: TRANSFORMS[name].make().init(p)
        assert avals(jax.eval_shape(init, params)) == avals(init(params))
        assert_close(jax.jit(init)(params), init(params), 1e-5)

    def test_saved_and_loaded(self, name):
        params, grads = small_params(), small_params(seed=1)
        _, transform = TRANSFORMS[name].make().init(params).update(grads, params)
        file = io.BytesIO()
        eqx.tree_serialise_leaves(file, transform)
        file.seek(0)
        fresh = TRANSFORMS[name].make().init(params)
        loaded = eqx.tree_deserialise_leaves(file, fresh)
        assert_equal(loaded.update(grads, params), transform.update(grads, params))

    def test_sharded(self, name):
        mesh = jax.make_mesh((8,), ("x",))
        rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
        params = {"w": jax.random.normal(jax.random.key(0), (16, 4))}
        grads = {"w": jax.random.normal(jax.random.key(1), (16, 4))}
        expected, _ = step(TRANSFORMS[name].make().init(params), params, grads)
        params, grads = jax.device_put((params, grads), rows)
        got, _ = step(TRANSFORMS[name].make().init(params), params, grads)
        assert got["w"].sharding.is_equivalent_to(rows, 2)
        assert_close(got, expected, 1e-5)


@every_transform
class TestModelInModelOut:
    def test_whole_model(self, name):
        model = Model()
        transform = TRANSFORMS[name].make().init(model)
        grads = eqx.filter(model, eqx.is_inexact_array)
        updates, transform = transform.update(downhill(grads), model)
        after = moved(model, updates)
        assert type(after) is Model and after.activation is model.activation
        assert (after.steps, after.name, after.nothing) == (3, "model", None)
        assert not np.array_equal(after.layers[0].weight, model.layers[0].weight)

    @pytest.mark.parametrize("absent", [None, "float0"])
    def test_absent_gradient_changes_nothing(self, name, absent):
        params = small_params()
        transform = TRANSFORMS[name].make().init(params)
        _, transform = transform.update(small_params(seed=1), params)
        grads = small_params(seed=2)
        grads["matrix"] = (
            None if absent is None else np.zeros((4, 3), jax.dtypes.float0)
        )
        updates, after = transform.update(grads, params)
        assert updates["matrix"] is None and updates["vector"] is not None
        if jax.tree.leaves(transform.state):
            assert_equal(after.state["matrix"], transform.state["matrix"])
        assert after.count == 2

    def test_empty_model(self, name):
        for model in ({}, None, {"f": jnp.tanh, "n": 3}):
            transform = TRANSFORMS[name].make().init(model)
            grads = jax.tree.map(lambda _: None, model)
            updates, transform = transform.update(grads, model)
            assert not jax.tree.leaves(updates) and transform.count == 1

    def test_mistakes(self, name):
        params = small_params()
        transform = TRANSFORMS[name].make()
        with pytest.raises(ValueError, match=rf"`{name}` has no state: call"):
            transform.update(params, params)
        transform = transform.init(params)
        with pytest.raises(ValueError, match=rf"`{name}`: .*\['matrix'\] has shape"):
            transform.update(params | {"matrix": jnp.ones((3, 4))}, params)
        with pytest.raises(TypeError, match=rf"`{name}`: .*\['scalar'\] has dtype int"):
            transform.update(params | {"scalar": jnp.ones((), jnp.int32)}, params)


@every_transform
class TestPrecision:
    def test_zero_gradients_in_half_precision(self, name):
        params = jax.tree.map(lambda x: x.astype(jnp.float16), small_params())
        zeros = jax.tree.map(jnp.zeros_like, params)
        transform = TRANSFORMS[name].make().init(params)
        updates, transform = transform.update(zeros, params)
        for leaf in jax.tree.leaves((updates, transform)):
            assert np.all(np.isfinite(np.asarray(leaf, np.float64)))
        if TRANSFORMS[name].zero:
            assert_close(updates, jax.tree.map(jnp.zeros_like, updates), rtol=0)

    @pytest.mark.parametrize(
        "dtype, size",
        [(jnp.float16, 6e4), (jnp.bfloat16, 1e30), (jnp.float32, 1e30)],
    )
    def test_large_gradients(self, name, dtype, size):
        params = small_params(dtype)
        grads = jax.tree.map(lambda x: jnp.full_like(x, size), params)
        transform = TRANSFORMS[name].make().init(params)
        updates, transform = transform.update(grads, params)
        for leaf in jax.tree.leaves((updates, transform)):
            assert np.all(np.isfinite(np.asarray(leaf, np.float64)))
        # A constant gradient has nothing beside its mean, and a parameter above a
        # bound goes down.
        if name not in ("CentralizeGradients", "KeepInBox"):
            assert np.all(updates["matrix"] > 0)

    def test_complex(self, name):
        """A rotated gradient and parameter give a rotated update."""
        if not TRANSFORMS[name].complex or name == "AddNoise":
            pytest.skip("not equal under rotation")
        turn = jnp.asarray(np.exp(0.7j), jnp.complex64)
        params, grads = small_params(), small_params(seed=1)
        transform = TRANSFORMS[name].make()
        real, _ = step(transform.init(params), params, grads)
        params, grads = jax.tree.map(
            lambda x: turn * x.astype(turn.dtype), (params, grads)
        )
        turned, _ = step(transform.init(params), params, grads)
        expected = jax.tree.map(lambda x: turn * x.astype(turn.dtype), real)
        assert_close(turned, expected, 1e-5)


def train(transform, steps=4, params=None):
    params = params_and_still() if params is None else params

    def body(carry, i):
        params, transform = carry
        return step(transform, params, jax.grad(loss)(params, i)), None

    (params, _), _ = jax.lax.scan(
        body, (params, transform.init(params)), jnp.arange(steps, dtype=float)
    )
    return params


def final_loss(name, hyperparameters):
    params = train(TRANSFORMS[name].make().replace(**hyperparameters))
    return loss(params, 0.0) + 1e-2 * jnp.sum(params["still"] ** 2)


@pytest.mark.parametrize("name", WITH_NUMBERS)
class TestHyperparameters:
    def test_gradient(self, name, x64):
        """Finite everywhere, and the slope of the loss where there is one."""
        at = TRANSFORMS[name].make().hyperparameters()
        run = jax.jit(lambda h: final_loss(name, h))
        slopes = jax.jit(jax.grad(lambda h: final_loss(name, h)))(at)
        for field, x in at.items():
            h = 1e-6
            up, down = run(at | {field: x + h}), run(at | {field: x - h})
            np.testing.assert_allclose(
                slopes[field], (up - down) / (2 * h), rtol=1e-4, atol=1e-7
            )

    def test_gradient_where_all_gradients_are_zero(self, name):
        params = small_params()
        zeros = jax.tree.map(jnp.zeros_like, params)

        def moved(hyperparameters, grads):
            transform = TRANSFORMS[name].make().replace(**hyperparameters)
            updates, _ = transform.init(params).update(grads, params)
            return sum(jnp.sum(x) for x in jax.tree.leaves(updates))

        at = TRANSFORMS[name].make().hyperparameters()
        for slope in jax.tree.leaves(jax.grad(moved, argnums=(0, 1))(at, zeros)):
            assert np.all(np.isfinite(slope))

    def test_vmap_equals_loop(self, name, x64):
        at = TRANSFORMS[name].make().hyperparameters()
        run = jax.jit(lambda h: final_loss(name, h))
        many = {k: jnp.asarray([0.9, 0.95, 1.0]) * x for k, x in at.items()}
        one_by_one = [run({k: v[i] for k, v in many.items()}) for i in range(3)]
        batch = jax.jit(jax.vmap(lambda h: final_loss(name, h)))(many)
        np.testing.assert_allclose(batch, one_by_one, rtol=1e-9)

    def test_schedule_equals_replacing(self, name, x64):
        at = TRANSFORMS[name].make().hyperparameters()
        ends = {k: 0.5 * x for k, x in at.items()}
        moving = {k: schedules.Linear(at[k], ends[k], 4) for k in at}
        expected = params = params_and_still()
        scheduled = TRANSFORMS[name].make().replace(**moving).init(params)
        replaced = TRANSFORMS[name].make().init(params)
        for i in range(4):
            grads = jax.grad(loss)(params, float(i))
            params, scheduled = step(scheduled, params, grads)
            now = {k: x + (ends[k] - x) * i / 4 for k, x in at.items()}
            grads = jax.grad(loss)(expected, float(i))
            expected, replaced = step(replaced.replace(**now), expected, grads)
        assert_close(params, expected, rtol=1e-9)

    def test_choice_per_parameter(self, name, x64):
        case = TRANSFORMS[name]
        if case.coupled:
            pytest.skip("the parameters depend on each other")
        at = case.make().hyperparameters()
        lower = {k: 0.9 * x for k, x in at.items()}
        by_function = {
            k: lambda path, array, k=k: lower[k] if path == "['matrix']" else at[k]
            for k in at
        }
        expected = train(case.make()) | {
            "matrix": train(case.make().replace(**lower))["matrix"]
        }
        assert_close(train(case.make().replace(**by_function)), expected, rtol=1e-9)

    def test_out_of_range(self, name):
        for field in TRANSFORMS[name].make().hyperparameters():
            match = rf"`{name}\({field}=nan\)`.*must lie in"
            with pytest.raises(ValueError, match=match):
                TRANSFORMS[name].make().replace(**{field: float("nan")})


@every_transform
def test_gradient_through_training(name, x64):
    """With respect to where training starts, of which two entries never move."""
    through = jax.grad(lambda p: loss(train(TRANSFORMS[name].make(), params=p), 0.0))
    for slope in jax.tree.leaves(through(params_and_still())):
        assert np.all(np.isfinite(slope))


def test_only_these_keep_state():
    """The others add nothing to a model's memory but a count and their numbers."""
    for name in TRANSFORMS:
        transform = TRANSFORMS[name].make().init(small_params())
        numbers = len(transform.hyperparameters()) + hasattr(transform, "seed")
        kept = len(jax.tree.leaves(transform)) - numbers
        assert (kept == 1) == (name not in STATEFUL)


@every_transform
def test_in_a_chain(name):
    """Before an optimizer, and after it."""
    params, grads = small_params(), small_params(seed=1)
    for order in (1, -1):
        parts = [TRANSFORMS[name].make(), eqxopt.SGD(0.1)][::order]
        new, opt = eqxopt.Chain(*parts).init(params).apply(grads, params)
        assert opt[name].count == 1
        assert not np.array_equal(new["vector"], params["vector"])
