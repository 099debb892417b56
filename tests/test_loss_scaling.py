"""Loss scaling: gradients in float16 that would underflow or overflow."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import small_params
from training_loops import assert_close, assert_equal, bits

import eqxopt


# The gradient of a mean over many numbers is small.
TARGET = jnp.linspace(-1, 1, 64)


def small_loss(model, data=TARGET):
    """Its gradients are below what float16 has. The loss itself is not."""
    wide = model["x"].astype(jnp.float32) - data
    return 1e-8 * jnp.sum(wide**2)


def half(seed=0):
    return {"x": jax.random.normal(jax.random.key(seed), (64,), jnp.float16)}


def optimizer():
    return eqxopt.MasterWeights(eqxopt.SGD(1e7))


def distance(model):
    return np.abs(np.asarray(model["x"].astype(jnp.float32) - TARGET)).max()


class TestUnderflow:
    """Gradients that are 0 in float16 train with a scale, and not without."""

    def run(self, opt, steps=40):
        model, step = half(), eqxopt.make_step(small_loss)
        opt = opt.init(model)
        for _ in range(steps):
            model, opt, loss = step(model, opt)
        return model, opt, loss

    def test_without(self):
        grads = jax.grad(small_loss)(half())["x"]
        assert np.mean(np.asarray(grads == 0)) > 0.7
        assert distance(self.run(optimizer())[0]) > 1

    def test_with(self):
        model, opt, loss = self.run(eqxopt.LossScaling(optimizer()))
        assert distance(model) < 2e-3 and opt.skipped == 0
        assert loss < 1e-9 and loss.dtype == jnp.float32

    def test_in_fit(self):
        model = half()
        opt = eqxopt.LossScaling(optimizer()).init(model)
        model, opt, history = eqxopt.fit(
            lambda model: small_loss(model), model, opt, steps=40, progress=False
        )
        assert distance(model) < 2e-3
        np.testing.assert_allclose(history.loss[0], small_loss(half()), rtol=1e-6)

    def test_in_microbatches(self):
        """The same, and the loss is that of the whole batch, without the scale."""
        loss_fn = lambda model, rows: jnp.mean(
            jax.vmap(lambda row: small_loss(model, row))(rows)
        )
        model = half()
        step = eqxopt.make_step(loss_fn, microbatches=4)
        opt = eqxopt.LossScaling(optimizer()).init(model)
        rows = jnp.tile(TARGET, (8, 1))
        expected = small_loss(model)
        for i in range(40):
            model, opt, loss = step(model, opt, rows)
            if i == 0:
                np.testing.assert_allclose(loss, expected, rtol=1e-6)
        assert distance(model) < 2e-3

    def test_by_hand(self):
        """The loop of the docstring is that of `make_step`."""

        @eqx.filter_jit
        def train_step(model, opt):
            def scaled_loss(model):
                loss = small_loss(model)
                return loss.astype(jnp.float32) * opt.scale, loss

            grads, loss = eqx.filter_grad(scaled_loss, has_aux=True)(model)
            model, opt = opt.apply(grads, model, value=loss)
            return model, opt, loss

        step = eqxopt.make_step(small_loss, donate=False)
        model = half()
        opt = eqxopt.LossScaling(optimizer()).init(model)
        for _ in range(3):
            by_hand, made = train_step(model, opt), step(model, opt)
            assert_close(by_hand, made, 1e-6)
            model, opt, _ = made


@jax.jit
def scaled_step(opt, params, grads):
    """A step with given gradients of the loss without the scale."""
    scaled = jax.tree.map(lambda g: g * opt.scale, grads)
    return opt.apply(scaled, params)


class TestScale:
    def test_powers_of_two_change_nothing(self):
        params, grads = small_params(), small_params(seed=1)
        plain = eqxopt.AdamW(0.1)
        opt = eqxopt.LossScaling(plain).init(params)
        expected = plain.init(params).apply(grads, params)[0]
        assert_equal(scaled_step(opt, params, grads)[0], expected)

    @pytest.mark.parametrize("bad", [jnp.inf, -jnp.inf, jnp.nan])
    def test_overflow_skips(self, bad):
        """Model and inner optimizer keep every bit, and the scale falls."""
        params = small_params() | {"zero": jnp.full(2, -0.0)}
        grads = small_params(seed=1) | {"zero": jnp.ones(2)}
        opt = eqxopt.LossScaling(eqxopt.AdamW(0.1)).init(params)
        params, opt = scaled_step(opt, params, grads)
        spoilt = grads | {"vector": grads["vector"].at[1].set(bad)}
        new, after = scaled_step(opt, params, spoilt)
        assert bits(new) == bits(params)
        assert bits(after.optimizer) == bits(opt.optimizer)
        assert (after.scale, after.skipped, after.good_steps) == (2.0**14, 1, 0)
        assert (after.count, after.optimizer.count) == (2, 1)
        new, _ = scaled_step(after, params, grads)
        assert np.all(np.isfinite(new["vector"]))

    def test_growth_and_bounds(self):
        params = {"x": jnp.ones(2)}
        opt = eqxopt.LossScaling(
            eqxopt.SGD(0.0), 4.0, growth_interval=2, min_scale=2.0, max_scale=16.0
        ).init(params)
        good, bad = {"x": jnp.ones(2)}, {"x": jnp.array([1.0, jnp.nan])}
        scales = []
        for grads in [good] * 3 + [bad] * 3 + [good] * 10:
            params, opt = scaled_step(opt, params, grads)
            scales.append(float(opt.scale))
        grown = [2, 4, 4, 8, 8, 16, 16, 16, 16, 16]
        assert scales == [4, 8, 8, 4, 2, 2, *grown]
        assert opt.skipped == 3

    def test_other_factors(self):
        params = {"x": jnp.ones(2)}
        opt = eqxopt.LossScaling(
            eqxopt.SGD(0.0), 9.0, growth_interval=1, growth=3.0, backoff=0.25
        ).init(params)
        _, grown = scaled_step(opt, params, params)
        assert grown.scale == 27
        _, fallen = scaled_step(opt, params, {"x": jnp.full(2, jnp.inf)})
        assert fallen.scale == 2.25

    def test_a_loss_in_float16_that_overflows(self):
        """The scale falls until its gradients fit, and then training goes on."""
        loss_fn = lambda model: jnp.sum(model["x"] ** 2)
        model = {"x": jnp.full(4, 2.0, jnp.float16)}
        opt = eqxopt.LossScaling(optimizer().replace(learning_rate=0.1)).init(model)
        step = eqxopt.make_step(loss_fn)
        for i in range(40):
            model, opt, loss = step(model, opt)
            if i == 0:
                assert loss == 16 and loss.dtype == jnp.float16
                np.testing.assert_array_equal(model["x"], 2)
        assert opt.skipped >= 1 and opt.scale < 2.0**15
        assert np.all(np.asarray(model["x"]) < 0.01)

    def test_population(self):
        params = {"x": jnp.ones(2)}
        grads = {"x": jnp.stack([jnp.ones(2), jnp.full(2, jnp.inf)])}
        opt = eqxopt.LossScaling(eqxopt.SGD(0.1)).init(params)
        both = jax.vmap(scaled_step, in_axes=(None, None, 0))
        new, after = both(opt, params, grads)
        np.testing.assert_array_equal(after.scale, [2.0**15, 2.0**14])
        np.testing.assert_allclose(new["x"], [[0.9, 0.9], [1, 1]])


class TestPlaces:
    """`make_step` scales the loss wherever the wrapper may be."""

    def step(self, opt, loss_fn=small_loss):
        model = half()
        return eqxopt.make_step(loss_fn, donate=False)(model, opt.init(model))

    def test_where_it_may_be(self):
        inner = lambda: eqxopt.LossScaling(optimizer())
        expected = self.step(inner())[0]["x"].astype(jnp.float32)
        for opt in (
            eqxopt.Accumulate(inner(), 1),
            eqxopt.EMA(inner(), 0.9),
            eqxopt.Chain(inner()),
            eqxopt.MasterWeights(eqxopt.LossScaling(eqxopt.SGD(1e7))),
        ):
            model, _, loss = self.step(opt)
            np.testing.assert_allclose(model["x"].astype(float), expected, rtol=1e-6)
            np.testing.assert_allclose(loss, small_loss(half()), rtol=1e-6)

    def test_accumulated(self):
        """Two halves of a batch, of which the first may overflow."""
        params = {"x": jnp.ones(2)}
        opt = eqxopt.Accumulate(eqxopt.LossScaling(eqxopt.SGD(0.1)), 2).init(params)
        inner = lambda opt: opt.optimizer
        for grad in (3.0, 1.0):
            scaled = {"x": jnp.full(2, grad) * inner(opt).scale}
            params, opt = opt.apply(scaled, params)
        np.testing.assert_allclose(params["x"], 0.8, rtol=1e-6)
        for grad in (jnp.inf, 1.0):
            params, opt = opt.apply({"x": jnp.full(2, grad)}, params)
        np.testing.assert_allclose(params["x"], 0.8, rtol=1e-6)
        assert inner(opt).skipped == 1 and inner(opt).scale == 2.0**14

    @pytest.mark.parametrize(
        "name, wrap",
        [
            ("Partition", lambda x: eqxopt.masked(x, True)),
            ("Chain", lambda x: eqxopt.Chain(eqxopt.ClipByGlobalNorm(1.0), x)),
            ("SAM", lambda x: eqxopt.SAM(x)),
            ("Monitor", eqxopt.Monitor),
            ("SkipOnSpike", eqxopt.SkipOnSpike),
            ("DecoupledWeightDecay", lambda x: eqxopt.DecoupledWeightDecay(x, 0.1)),
            ("Cautious", eqxopt.Cautious),
            ("Mechanic", eqxopt.Mechanic),
        ],
    )
    def test_where_it_must_not_be(self, name, wrap):
        opt = eqxopt.EMA(wrap(eqxopt.LossScaling(optimizer())), 0.9)
        with pytest.raises(ValueError, match=f"put it around `{name}`, not inside"):
            self.step(opt)
        model = half()
        with pytest.raises(ValueError, match=f"put it around `{name}`, not inside"):
            eqxopt.fit(small_loss, model, opt.init(model), steps=1, progress=False)

    def test_residuals_and_value_fn(self):
        """They are those of the loss without the scale."""
        residuals = lambda model: model["x"].astype(jnp.float32) - TARGET
        step = eqxopt.make_step(residuals, residuals=True)
        model = half()
        inner = eqxopt.MasterWeights(eqxopt.LBFGS())
        opt = eqxopt.LossScaling(inner, 2.0**8).init(model)
        for _ in range(4):
            model, opt, loss = step(model, opt)
        assert opt.skipped == 0 and distance(model) < 2e-3 and loss < 1e-4


def test_a_scale_per_parameter_makes_no_sense():
    opt = eqxopt.LossScaling(eqxopt.SGD(0.1), lambda path, array: 2.0)
    with pytest.raises(TypeError, match="`LossScaling.initial_scale` is one number"):
        opt.init({"x": jnp.ones(2)})
