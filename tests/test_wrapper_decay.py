"""Cautious updates, weight decay and norms, compared with optax and the papers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from problems import nested_params
from training_loops import (
    assert_close,
    bits,
    gradients_at,
    STEPS,
    trained,
    trained_by_optax,
)

import eqxopt


def test_cautious(x64):
    """A NumPy transcription of the paper, around Adam."""
    rng = np.random.default_rng(0)
    x = params = rng.normal(size=(4, 3))
    inner = eqxopt.Adam(0.1)
    inner, opt = inner.init(jnp.asarray(x)), eqxopt.Cautious(inner).init(jnp.asarray(x))
    for _ in range(STEPS):
        grad = rng.normal(size=x.shape)
        updates, inner = inner.update(jnp.asarray(grad), jnp.asarray(x))
        direction = -np.asarray(updates)
        mask = (direction * grad > 0).astype(float)
        x = x - mask * direction / max(mask.mean(), 1e-3)
        params, opt = opt.apply(jnp.asarray(grad), jnp.asarray(params))
        np.testing.assert_allclose(params, x, rtol=1e-12)


class TestCautious:
    def test_a_masked_entry_keeps_its_bits(self):
        params = jnp.asarray([-0.0, 1.0, 2.0])
        opt = eqxopt.Cautious(eqxopt.SGD(0.1)).init(params)
        new, opt = opt.apply(jnp.asarray([0.0, 0.0, 1e-30]), params)
        assert bits(new[:2]) == bits(params[:2])

    def test_small_numbers_agree(self):
        """The signs are compared: a product would underflow."""
        params = jnp.zeros(2)
        opt = eqxopt.Cautious(eqxopt.SGD(1.0)).init(params)
        updates, _ = opt.update(jnp.full(2, 1e-25), params)
        np.testing.assert_allclose(updates, -1e-25)

    def test_nan_stays_visible(self):
        params = jnp.ones(2)
        opt = eqxopt.Cautious(eqxopt.SGD(1.0)).init(params)
        new, _ = opt.apply(jnp.asarray([jnp.nan, 1.0]), params)
        assert np.isnan(new[0])


MASK = {"scalar": False, "layers": True, "kernel": False}


class TestWeightDecay:
    @pytest.mark.parametrize("mask", [None, MASK])
    def test_times_learning_rate_is_adamw(self, mask, x64):
        rate = eqxopt.schedules.Linear(0.1, 0.01, 20)
        params = nested_params(jnp.float64)
        expected = trained(eqxopt.AdamW(rate, weight_decay=0.3, mask=mask), params)
        opt = eqxopt.DecoupledWeightDecay(eqxopt.Adam(rate), 0.3, mask)
        for (_, ours), (_, theirs) in zip(trained(opt, params), expected, strict=True):
            assert_close(ours, theirs, rtol=1e-12)

    @pytest.mark.parametrize("mask", [None, MASK])
    @pytest.mark.parametrize("convention", ["independent", "l2"])
    def test_optax(self, convention, mask, x64):
        params = nested_params(jnp.float64)
        if convention == "l2":
            theirs = [optax.add_decayed_weights(0.1, mask), optax.adam(0.1)]
        else:
            theirs = [optax.adam(0.1), optax.add_decayed_weights(-0.1, mask)]
        opt = eqxopt.DecoupledWeightDecay(
            eqxopt.Adam(0.1), 0.1, mask, convention=convention
        )
        for (_, our), (_, their) in zip(
            trained(opt, params), trained_by_optax(optax.chain(*theirs), params)
        ):
            assert_close(our, their)

    @pytest.mark.parametrize("mask", [None, {"w": True, "b": False}])
    def test_corrected_is_adamc(self, mask, x64):
        """The paper's algorithm in NumPy: the decay is proportional to the square of
        the learning rate."""
        rng = np.random.default_rng(0)
        rate = eqxopt.schedules.WarmupCosineDecay(0.0, 0.1, 5, 18, 0.01)
        x = {"w": rng.normal(size=(4, 3)), "b": rng.normal(size=3)}
        params, m, v = jax.tree.map(jnp.asarray, x), {}, {}
        opt = eqxopt.DecoupledWeightDecay(
            eqxopt.Adam(rate), 0.3, mask, convention="corrected", max_learning_rate=0.1
        ).init(params)
        for t in range(1, STEPS + 1):
            alpha = float(rate(t - 1))
            grads = {k: rng.normal(size=x[k].shape) for k in x}
            for k, g in grads.items():
                m[k] = 0.9 * m.get(k, 0) + 0.1 * g
                v[k] = 0.999 * v.get(k, 0) + 0.001 * g**2
                root = np.sqrt(v[k] / (1 - 0.999**t))
                decay = 0.3 * x[k] if mask is None or mask[k] else 0
                x[k] = x[k] - alpha * m[k] / (1 - 0.9**t) / (root + 1e-8)
                x[k] = x[k] - alpha**2 / 0.1 * decay
            params, opt = opt.apply(jax.tree.map(jnp.asarray, grads), params)
            assert_close(params, x)

    def test_corrected_needs_the_peak_rate(self):
        with pytest.raises(ValueError, match="give `max_learning_rate`, the peak"):
            eqxopt.DecoupledWeightDecay(eqxopt.SGD(0.1), 0.1, convention="corrected")

    def test_finds_a_nested_learning_rate(self):
        params = {"a": jnp.ones(2), "b": jnp.ones(2)}
        zeros = jax.tree.map(jnp.zeros_like, params)
        inner = eqxopt.Chain(eqxopt.Monitor(eqxopt.SGD({"a": 0.1, "b": 0.2})))
        opt = eqxopt.DecoupledWeightDecay(inner, 0.5).init(params)
        new, _ = opt.apply(zeros, params)
        np.testing.assert_allclose(new["a"], 0.95)
        np.testing.assert_allclose(new["b"], 0.9)

    @pytest.mark.parametrize(
        "wrapper", [eqxopt.DecoupledWeightDecay, eqxopt.CautiousWeightDecay]
    )
    def test_no_learning_rate_or_several(self, wrapper):
        params = {"a": jnp.ones(2), "b": jnp.ones(2)}
        labels = {"a": "one", "b": "two"}
        several = eqxopt.Partition(
            {"one": eqxopt.SGD(0.1), "two": eqxopt.Adam(0.1)}, labels
        )
        for inner, match in [
            (eqxopt.PolyakSGD(), "`PolyakSGD` has no learning rate"),
            (several, "`Partition` has several learning rates"),
        ]:
            with pytest.raises(ValueError, match=rf"`{wrapper.__name__}`: {match}"):
                wrapper(inner, 0.1).init(params)
            wrapper(inner, 0.1, convention="independent").init(params)

    def test_frozen_parameters_do_not_decay(self):
        params = {"a": jnp.ones(2), "b": jnp.ones(2)}
        inner = eqxopt.masked(eqxopt.SGD(0.1), {"a": True, "b": False})
        opt = eqxopt.DecoupledWeightDecay(inner, 0.1).init(params)
        new, _ = opt.apply(params, params)
        assert new["a"][0] < 1 and bits(new["b"]) == bits(params["b"])

    def test_unknown_convention(self):
        for make in (eqxopt.DecoupledWeightDecay, eqxopt.CautiousWeightDecay):
            with pytest.raises((TypeError, ValueError)):
                make(eqxopt.SGD(0.1), 0.1, convention="adamw")

    def test_cautious(self, x64):
        rng = np.random.default_rng(0)
        x = params = rng.normal(size=(4, 3))
        inner = eqxopt.Adam(0.1).init(jnp.asarray(x))
        opt = eqxopt.CautiousWeightDecay(eqxopt.Adam(0.1), 0.5).init(jnp.asarray(x))
        for _ in range(STEPS):
            grad = rng.normal(size=x.shape)
            updates, inner = inner.update(jnp.asarray(grad), jnp.asarray(x))
            direction = -np.asarray(updates) / 0.1
            x = x - 0.1 * (direction + 0.5 * (direction * x >= 0) * x)
            params, opt = opt.apply(jnp.asarray(grad), jnp.asarray(params))
            np.testing.assert_allclose(params, x, rtol=1e-12)


class TestMonitor:
    def test_norms(self, x64):
        params = nested_params(jnp.float64)
        opt = eqxopt.Monitor(
            eqxopt.Chain(eqxopt.ClipByGlobalNorm(0.1), eqxopt.SGD(1.0))
        )
        before = params
        for step, (opt, after) in enumerate(trained(opt, params)):
            _, grads = gradients_at(before, step)
            updates = jax.tree.map(lambda a, b: a - b, after, before)
            assert_close(opt.gradient_norm, optax.tree.norm(grads))
            assert_close(opt.update_norm, optax.tree.norm(updates))
            assert_close(opt.parameter_norm, optax.tree.norm(before))
            before = after

    def test_norms_of_float16(self):
        params = {"x": jnp.full((1000,), 100.0, jnp.float16)}
        opt = eqxopt.Monitor(eqxopt.SGD(0.1)).init(params)
        _, opt = opt.apply(params, params)
        assert opt.gradient_norm == pytest.approx(100 * 1000**0.5)

    def test_hyperparameters(self):
        opt = eqxopt.Monitor(eqxopt.SGD(0.1)).init(jnp.ones(2))
        assert list(opt.hyperparameters()) == ["SGD.learning_rate"]
