"""Private aggregation: optax's numbers, the noise, and the contract of transforms for
gradients with an axis of examples."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax.contrib
import pytest
from problems import Model, nested_params, small_params
from training_loops import assert_close, avals, in_optax

import eqxopt


def make(clip=0.5, noise=0.3, seed=1):
    return eqxopt.DifferentiallyPrivateAggregate(clip, noise, seed)


def per_example(params, batch=5, seed=1):
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return treedef.unflatten(
        [jax.random.normal(k, (batch, *x.shape), x.dtype) for k, x in zip(keys, leaves)]
    )


def dpsgd(**options):
    return eqxopt.Chain(make(**options), eqxopt.SGD(0.1, momentum=0.9))


@pytest.mark.parametrize("clip", [0.1, 4.0, 1e3])
def test_optax(clip, x64):
    params = nested_params(jnp.float64)
    ours = make(clip, 0.0).init(params)
    theirs = optax.contrib.differentially_private_aggregate(clip, 0.0, 0)
    state, update = theirs.init(params), in_optax(jax.jit(theirs.update))
    for seed in range(3):
        grads = per_example(params, seed=seed)
        grads["scalar"] = grads["scalar"].at[0].set(0.0)
        expected, state = update(grads, state)
        got, ours = ours.update(grads, params)
        assert_close(got, expected, rtol=1e-12)


def test_optax_dpsgd(x64):
    params = theirs = nested_params(jnp.float64)
    opt = dpsgd(noise=0.0).init(params)
    private = optax.contrib.differentially_private_aggregate(0.5, 0.0, 0)
    tx = optax.chain(private, optax.sgd(0.1, momentum=0.9))
    state, update = tx.init(params), in_optax(jax.jit(tx.update))
    for seed in range(25):
        grads = per_example(params, seed=seed)
        updates, state = update(grads, state)
        theirs = optax.apply_updates(theirs, updates)
        params, opt = opt.apply(grads, params)
        assert_close(params, theirs, rtol=1e-10)


def test_paper(x64):
    """A step of Algorithm 1 in NumPy, but for the noise."""
    rng = np.random.default_rng(0)
    w, b = rng.normal(size=(6, 4, 3)), rng.normal(size=(6, 3))
    norms = np.sqrt(np.sum(w**2, axis=(1, 2)) + np.sum(b**2, axis=1))
    scale = 1 / np.maximum(1, norms / 3.0)
    params = {"b": jnp.zeros(3), "w": jnp.zeros((4, 3))}
    grads = {"b": jnp.asarray(b), "w": jnp.asarray(w)}
    got, _ = make(3.0, 0.0).init(params).update(grads, params)
    np.testing.assert_allclose(got["w"], np.mean(scale[:, None, None] * w, 0))
    np.testing.assert_allclose(got["b"], np.mean(scale[:, None] * b, 0))
    assert scale.min() < 1 and scale.max() == 1


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.complex64])
def test_noise(dtype):
    """Of the sum, with the right variance, in each part of a complex number; fresh in
    every step, for every parameter and with every seed."""
    params = {"a": jnp.zeros(20000, dtype), "b": jnp.zeros(20000, dtype)}
    grads = jax.tree.map(lambda x: jnp.zeros((4, *x.shape), dtype), params)
    update = jax.jit(lambda t: t.update(grads, params))
    drawn = []
    for seed in (0, 1):
        transform = make(0.5, 1.2, seed).init(params)
        for _ in range(2):
            updates, transform = update(transform)
            drawn += [np.asarray(updates["a"]), np.asarray(updates["b"])]
    drawn = np.stack(drawn)
    parts = [drawn.real, drawn.imag] if np.iscomplexobj(drawn) else [drawn]
    for part in parts:
        np.testing.assert_allclose(np.std(part, axis=1), 0.5 * 1.2 / 4, rtol=0.03)
        np.testing.assert_allclose(np.mean(part, axis=1), 0, atol=0.005)
    assert np.max(np.abs(np.corrcoef(drawn) - np.eye(len(drawn)))) < 0.04


def test_a_seed_is_a_run():
    params = small_params()
    grads = per_example(params)
    once, _ = make(seed=3).init(params).update(grads, params)
    again, _ = make(seed=jax.random.key(3)).init(params).update(grads, params)
    assert_close(once, again, rtol=0)


def test_one_example_has_at_most_its_say(x64):
    params = nested_params(jnp.float64)
    grads = per_example(params)
    without = jax.tree.map(lambda g: g.at[2].set(0), grads)
    huge = jax.tree.map(lambda g: g.at[2].multiply(1e6), grads)
    means = [make().init(params).update(g, params)[0] for g in (without, huge)]
    moved = optax.tree.norm(jax.tree.map(jnp.subtract, *means))
    np.testing.assert_allclose(moved, 0.5 / 5, rtol=1e-9)


class TestContract:
    @pytest.mark.parametrize(
        "dtype, grad_dtype",
        [
            (jnp.float32, jnp.bfloat16),
            (jnp.bfloat16, jnp.float32),
            (jnp.float16, jnp.float16),
            (jnp.float64, jnp.float32),
            (jnp.complex64, jnp.complex64),
            (jnp.complex64, jnp.float32),
        ],
    )
    def test_avals_and_treedef(self, dtype, grad_dtype, x64):
        def one_step():
            params, grads = small_params(dtype), per_example(small_params(grad_dtype))
            opt = dpsgd().init(params)
            return (params, opt), opt.apply(grads, params)

        before, after = jax.eval_shape(one_step)
        assert avals(before) == avals(after)
        wide = jnp.float32 if jnp.finfo(dtype).bits < 32 else dtype
        updates = jax.eval_shape(
            lambda t, p, g: t.update(g, p)[0],
            before[1][0],
            before[0],
            jax.eval_shape(lambda: per_example(small_params(grad_dtype))),
        )
        assert {x.dtype for x in jax.tree.leaves(updates)} == {jnp.dtype(wide)}

    def test_arrays_only_and_one_trace(self):
        traces = 0

        @jax.jit
        def step(opt, params, grads):
            nonlocal traces
            traces += 1
            return opt.apply(grads, params)

        params = small_params()
        made = opt = dpsgd().init(params)
        assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(opt))
        for seed in range(5):
            params, opt = step(opt, params, per_example(params, seed=seed))
        step(made.replace(l2_norm_clip=2.0, noise_multiplier=0.1), params, params_of(5))
        assert traces == 1

    def test_scan_equals_loop(self):
        params = small_params()
        opt = dpsgd().init(params)
        grads = [per_example(params, seed=i) for i in range(3)]
        looped = (params, opt)
        for g in grads:
            looped = looped[1].apply(g, looped[0])
        stacked = jax.tree.map(lambda *x: jnp.stack(x), *grads)
        body = lambda carry, g: (carry[1].apply(g, carry[0]), None)
        assert_close(jax.lax.scan(body, (params, opt), stacked)[0], looped, 1e-5)

    @pytest.mark.parametrize("absent", [None, "float0"])
    def test_absent_gradient(self, absent):
        params = small_params()
        grads = per_example(params)
        grads["matrix"] = (
            None if absent is None else np.zeros((5, 4, 3), jax.dtypes.float0)
        )
        updates, after = make().init(params).update(grads, params)
        assert updates["matrix"] is None and after.count == 1
        new, _ = dpsgd().init(params).apply(grads, params)
        np.testing.assert_array_equal(new["matrix"], params["matrix"])

    def test_model_with_functions_and_empty_models(self):
        model, x = Model(), jax.random.normal(jax.random.key(0), (7, 3))
        loss = lambda model, x: jnp.sum(model(x) ** 2)
        grads = jax.vmap(eqx.filter_grad(loss), in_axes=(None, 0))(model, x)
        after, _ = dpsgd().init(model).apply(grads, model)
        assert type(after) is Model and after.activation is model.activation
        for nothing in ({}, None, {"f": jnp.tanh}):
            grads = jax.tree.map(lambda _: None, nothing)
            after, opt = dpsgd().init(nothing).apply(grads, nothing)
            assert after == nothing and opt.count == 1

    def test_a_batch_of_nothing(self):
        """Its mean is the noise alone, as if it were of one."""
        params = small_params()
        updates, _ = make().init(params).update(per_example(params, batch=0), params)
        assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(updates))

    def test_sharded(self):
        mesh = jax.make_mesh((8,), ("x",))
        rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
        params = {"w": jax.random.normal(jax.random.key(0), (16, 4))}
        grads = per_example(params, batch=8)
        expected, _ = dpsgd().init(params).apply(grads, params)
        got, _ = jax.jit(lambda o, g, p: o.apply(g, p))(
            dpsgd().init(params),
            jax.device_put(grads, rows),  # one example a device
            jax.device_put(params, rows),
        )
        assert_close(got, expected, 1e-5)


def params_of(batch):
    return per_example(small_params(), batch)


class TestHyperparameters:
    def trained(self, hyperparameters, zero=False):
        params = {"x": jnp.ones(3, float), "y": jnp.ones((2, 2), float)}
        opt = dpsgd().replace(**hyperparameters).init(params)
        for seed in range(3):
            grads = per_example(params, seed=seed)
            if zero:
                grads = jax.tree.map(jnp.zeros_like, grads)
            params, opt = opt.apply(grads, params)
        return sum(jnp.sum(x**2) for x in jax.tree.leaves(params))

    def test_gradient(self, x64):
        at = {"l2_norm_clip": 0.5, "noise_multiplier": 0.3}
        run = jax.jit(self.trained)
        slopes = jax.grad(self.trained)(at)
        for field, x in at.items():
            up, down = run(at | {field: x + 1e-6}), run(at | {field: x - 1e-6})
            np.testing.assert_allclose(slopes[field], (up - down) / 2e-6, rtol=1e-5)
        for zero in (False, True):
            for noise in (0.0, 0.3):
                slopes = jax.grad(self.trained)(at | {"noise_multiplier": noise}, zero)
                assert all(np.isfinite(x) for x in slopes.values())

    def test_vmap_and_schedules(self, x64):
        clips = jnp.asarray([0.1, 0.5, 2.0])
        run = lambda clip: self.trained({"l2_norm_clip": clip})
        np.testing.assert_allclose(jax.vmap(run)(clips), [run(x) for x in clips])
        params = {"x": jnp.ones(3, float)}
        grads = per_example(params)
        moving = make(lambda step: 0.1 + 0.1 * step.astype(float)).init(params)
        _, moving = moving.update(grads, params)
        got, _ = moving.update(grads, params)
        _, still = make(0.1).init(params).update(grads, params)
        expected, _ = still.replace(l2_norm_clip=0.2).update(grads, params)
        np.testing.assert_allclose(got["x"], expected["x"])


class TestMistakes:
    def test_before_init(self):
        with pytest.raises(ValueError, match="`Differ.*` has no state: call"):
            make().update({}, {})

    def test_without_the_axis_of_examples(self):
        params = {"a": jnp.ones((2, 3)), "b": jnp.ones(())}
        for grads, match in [
            (params, r"\['a'\] has shape \(2, 3\), but .* \(2, 2, 3\). Make them with"),
            ({"a": None, "b": jnp.ones(())}, r"\['b'\] has shape \(\).*\('batch',\)"),
            (
                {"a": jnp.ones((5, 2, 3)), "b": jnp.ones(4)},
                r"\['b'\] has shape \(4,\), but one for each example has \(5,\)",
            ),
        ]:
            with pytest.raises(
                ValueError, match=rf"`Differ.*`: the gradient at {match}"
            ):
                make().init(params).update(grads, params)
            with pytest.raises(ValueError, match=rf"`Chain`: the gradient at {match}"):
                dpsgd().init(params).apply(grads, params)

    def test_other_optimizers_have_no_such_axis(self):
        params = jnp.ones(3)
        for opt in (eqxopt.SGD(0.1), eqxopt.EMA(dpsgd(), 0.9)):
            with pytest.raises(ValueError, match=r"has shape \(5, 3\), but the param"):
                opt.init(params).apply(jnp.ones((5, 3)), params)

    def test_not_the_first(self):
        with pytest.raises(ValueError, match="`Differ.*` takes .* must be the first"):
            eqxopt.Chain(eqxopt.SGD(0.1), make())

    def test_one_number_for_the_whole_model(self):
        params = {"a": jnp.ones(2), "b": jnp.ones(2)}
        transform = make({"a": 1.0, "b": 2.0}).init(params)
        with pytest.raises(
            TypeError, match="l2_norm_clip` is one number for the whole"
        ):
            transform.update(per_example(params), params)

    @pytest.mark.parametrize("field", ["l2_norm_clip", "noise_multiplier"])
    def test_out_of_range(self, field):
        with pytest.raises(ValueError, match=rf"\({field}=-1.0\)`.*must lie in"):
            make().replace(**{field: -1.0})
