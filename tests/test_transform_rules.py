"""The numbers of the transforms: beside optax, and where optax has no counterpart."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import TRANSFORMS
from problems import nested_params
from training_loops import assert_close, downhill, gradients_at, in_optax

import eqxopt


MASK = {"scalar": False, "layers": True, "kernel": False}


def linear():
    return eqxopt.schedules.Linear(1.0, 0.2, 5)


def optax_linear(step):
    return optax.linear_schedule(1.0, 0.2, 5)(jnp.asarray(step, float))


def clip_by_rms(threshold):
    return eqxopt.ClipByNorm(lambda path, array: threshold * array.size**0.5)


def in_box(low, high):
    """A projection of optax's as a transform."""

    def update(updates, state, params):
        new = optax.apply_updates(params, updates)
        ends = [jax.tree.map(lambda _, end=end: end, params) for end in (low, high)]
        new = optax.projections.projection_box(new, *ends)
        return jax.tree.map(jnp.subtract, new, params), state

    return optax.GradientTransformation(lambda params: (), update)


def each(tx):
    """`tx` for each parameter on its own."""

    def update(updates, state, params):
        return jax.tree.map(lambda u: tx.update(u, ())[0], updates), state

    return optax.GradientTransformation(lambda params: (), update)


# Ours before theirs; both are made inside the test, in its precision.
PARITY = {
    "AdaptiveGradientClipping": [
        (
            lambda: eqxopt.AdaptiveGradientClipping(0.03, unit_axis=-1),
            lambda: optax.adaptive_grad_clip(0.03),
        ),
        (
            lambda: eqxopt.AdaptiveGradientClipping(0.01, eps=3.0, unit_axis=(-1,)),
            lambda: optax.adaptive_grad_clip(0.01, eps=3.0),
        ),
    ],
    "AddDecayedWeights": [
        (
            lambda: eqxopt.AddDecayedWeights(-0.1),
            lambda: optax.add_decayed_weights(-0.1),
        ),
        (
            lambda: eqxopt.AddDecayedWeights(linear(), MASK),
            lambda: optax.add_decayed_weights(optax_linear, MASK),
        ),
    ],
    "CentralizeGradients": [(eqxopt.CentralizeGradients, optax.centralize)],
    "ClipByGlobalNorm": [
        (
            lambda: eqxopt.ClipByGlobalNorm(max_norm),
            lambda: optax.clip_by_global_norm(max_norm),
        )
        for max_norm in (0.3, 100.0)
    ],
    "ClipByNorm": [
        (lambda: eqxopt.ClipByNorm(0.1), lambda: each(optax.clip_by_global_norm(0.1))),
        (lambda: clip_by_rms(0.05), lambda: optax.clip_by_block_rms(0.05)),
    ],
    "ClipByValue": [(lambda: eqxopt.ClipByValue(0.04), lambda: optax.clip(0.04))],
    "KeepInBox": [
        (lambda: eqxopt.KeepInBox(-0.5, 0.9), lambda: in_box(-0.5, 0.9)),
        (lambda: eqxopt.KeepInBox(low=-0.5), lambda: in_box(-0.5, np.inf)),
        (lambda: eqxopt.KeepInBox(high=0.9), lambda: in_box(-np.inf, 0.9)),
        (lambda: eqxopt.KeepInBox(low=0.0), optax.keep_params_nonnegative),
    ],
    "KeepNonnegative": [(eqxopt.KeepNonnegative, optax.keep_params_nonnegative)],
    "Normalize": [
        (eqxopt.Normalize, optax.normalize_by_update_norm),
        (
            lambda: eqxopt.Normalize(-0.3, 0.1),
            lambda: optax.normalize_by_update_norm(-0.3, 0.1),
        ),
        (
            lambda: eqxopt.Normalize(per_parameter=True),
            lambda: each(optax.normalize_by_update_norm()),
        ),
    ],
    "Scale": [
        (lambda: eqxopt.Scale(-0.5), lambda: optax.scale(-0.5)),
        (lambda: eqxopt.Scale(linear()), lambda: optax.scale_by_schedule(optax_linear)),
    ],
    "ScaleByTrustRatio": [
        (eqxopt.ScaleByTrustRatio, optax.scale_by_trust_ratio),
        (
            lambda: eqxopt.ScaleByTrustRatio(0.5, 0.1, 0.2),
            lambda: optax.scale_by_trust_ratio(0.5, 0.1, 0.2),
        ),
    ],
    "Sign": [(eqxopt.Sign, optax.scale_by_sign)],
    "ZeroNaNs": [(eqxopt.ZeroNaNs, optax.zero_nans)],
}
VARIANTS = [(name, i) for name, pairs in PARITY.items() for i in range(len(pairs))]


@pytest.mark.parametrize("name, variant", VARIANTS)
def test_optax_parity(name, variant, x64):
    """Ten steps, in each of which the update given is a step along the gradients."""
    ours, theirs = PARITY[name][variant]
    transform, tx = ours(), theirs()
    our_params = their_params = nested_params(jnp.float64)
    transform, state = transform.init(our_params), tx.init(their_params)

    def updates_at(params, i):
        updates = downhill(gradients_at(params, i)[1])
        if name == "ZeroNaNs":
            updates = jax.tree.map(lambda u: jnp.where(u > 0, u, jnp.nan), updates)
        return updates

    update = in_optax(tx.update)
    for i in range(10):
        updates, transform = transform.update(updates_at(our_params, i), our_params)
        our_params = jax.tree.map(jnp.add, our_params, updates)
        updates, state = update(updates_at(their_params, i), state, their_params)
        their_params = jax.tree.map(jnp.add, their_params, updates)
    assert_close(our_params, their_params)


def test_every_transform_has_a_pair():
    # The noise of optax is another draw.
    assert PARITY.keys() | {"AddNoise"} == TRANSFORMS.keys()


class TestClipByGlobalNorm:
    @pytest.mark.parametrize(
        "dtype, size", [(jnp.float16, 100.0), (jnp.bfloat16, 1e30), (jnp.float32, 1e30)]
    )
    def test_no_overflow(self, dtype, size):
        params = {"a": jnp.zeros(1000, dtype), "b": jnp.zeros((10, 10), dtype)}
        grads = jax.tree.map(lambda x: jnp.full_like(x, size), params)
        clip = eqxopt.ClipByGlobalNorm(1.0).init(params)
        updates, clip = clip.update(grads, params)
        size = float(grads["a"][0])
        np.testing.assert_allclose(clip.norm, 1100**0.5 * size, rtol=1e-5)
        np.testing.assert_allclose(updates["b"], 1100**-0.5, rtol=1e-5)

    def test_no_underflow(self):
        x = jnp.full(4, 1e-25)
        _, clip = eqxopt.ClipByGlobalNorm(1.0).init(x).update(x, x)
        np.testing.assert_allclose(clip.norm, 2e-25, rtol=1e-6)

    @pytest.mark.parametrize("max_norm", [10.0, jnp.inf])
    def test_short_gradients_are_untouched(self, max_norm):
        params = nested_params()
        clip = eqxopt.ClipByGlobalNorm(max_norm).init(params)
        grads = jax.tree.map(lambda x: x / 7, params)
        updates, clip = clip.update(grads, params)
        assert eqx.tree_equal(updates, grads)
        np.testing.assert_allclose(clip.norm, optax.tree.norm(grads), rtol=1e-6)

    def test_norm_before_init_and_update(self):
        assert eqxopt.ClipByGlobalNorm(1.0).norm is None
        assert eqxopt.ClipByGlobalNorm(1.0).init(jnp.ones(2)).norm == 0

    @pytest.mark.parametrize("bad", [jnp.inf, jnp.nan])
    def test_norm_shows_what_is_not_finite(self, bad):
        x = jnp.array([1.0, bad])
        _, clip = eqxopt.ClipByGlobalNorm(1.0).init(x).update(x, x)
        assert np.array_equal(clip.norm, bad, equal_nan=True)

    def test_missing_gradients_do_not_count(self, x64):
        params = {"a": jnp.ones(4, jnp.float32), "b": jnp.ones(4, jnp.float64)}
        clip = eqxopt.ClipByGlobalNorm(1.0).init(params)
        _, after = clip.update(params | {"b": None}, params)
        assert after.norm == 2 and after.norm.dtype == clip.norm.dtype == jnp.float64

    def test_norm_through_a_chain(self):
        x = jnp.array([3.0, 4.0])
        opt = eqxopt.Chain(eqxopt.ClipByGlobalNorm(1.0), eqxopt.SGD(0.1)).init(x)
        _, opt = opt.apply(x, x)
        assert opt["ClipByGlobalNorm"].norm == 5

    def test_limit_for_each_parameter(self):
        params = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
        clip = eqxopt.ClipByGlobalNorm({"a": 1.0, "b": 2.5}).init(params)
        updates, _ = clip.update(params, params)
        np.testing.assert_allclose(updates["a"], 0.6, rtol=1e-6)
        np.testing.assert_allclose(updates["b"], 2.0, rtol=1e-6)


class TestUnits:
    def test_adaptive_clipping_by_row_of_equinox_layers(self, x64):
        """Output units of `Linear` and `Conv2d`, and whole biases, also (out, 1, 1)."""
        keys = jax.random.split(jax.random.key(0), 2)
        model = [
            eqx.nn.Linear(3, 4, key=keys[0], dtype=jnp.float64),
            eqx.nn.Conv2d(3, 4, 2, key=keys[1], dtype=jnp.float64),
        ]
        clip = eqxopt.AdaptiveGradientClipping(0.1).init(model)
        grads = jax.tree.map(jnp.cos, eqx.filter(model, eqx.is_inexact_array))
        updates, _ = clip.update(grads, model)
        for param, update in zip(jax.tree.leaves(grads), jax.tree.leaves(updates)):
            assert param.shape == update.shape
        for layer, update in zip(model, updates):
            rows = lambda x: np.linalg.norm(np.asarray(x).reshape(4, -1), axis=1)
            np.testing.assert_allclose(rows(update.weight), 0.1 * rows(layer.weight))
            norms = jnp.linalg.norm(update.bias), jnp.linalg.norm(layer.bias)
            np.testing.assert_allclose(norms[0], 0.1 * norms[1])

    def test_three_axes_as_in_optax(self, x64):
        param = jax.random.normal(jax.random.key(0), (3, 4, 5), float)
        clip = eqxopt.AdaptiveGradientClipping(0.1, unit_axis=(1, 2)).init(param)
        ours, _ = clip.update(jnp.cos(param), param)
        tx = optax.adaptive_grad_clip(0.1)
        theirs, _ = tx.update(jnp.cos(param), tx.init(param), param)
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)

    def test_centralize_leaves_biases_of_convolutions(self):
        conv = eqx.nn.Conv2d(3, 4, 2, key=jax.random.key(0))
        grads = eqx.filter(conv, eqx.is_inexact_array)
        updates, _ = eqxopt.CentralizeGradients().init(conv).update(grads, conv)
        np.testing.assert_array_equal(updates.bias, conv.bias)
        np.testing.assert_allclose(
            jnp.mean(updates.weight, axis=(1, 2, 3)), 0, atol=1e-7
        )

    def test_centralize_where_outputs_come_last(self):
        weight = jax.random.normal(jax.random.key(0), (3, 4))
        centralize = eqxopt.CentralizeGradients(unit_axis=-1).init(weight)
        update, _ = centralize.update(weight, weight)
        np.testing.assert_allclose(jnp.mean(update, axis=0), 0, atol=1e-7)

    @pytest.mark.parametrize(
        "make",
        [
            lambda: eqxopt.AdaptiveGradientClipping(0.1, unit_axis=2),
            lambda: eqxopt.CentralizeGradients(unit_axis=2),
        ],
    )
    def test_missing_axis(self, make):
        name = type(make()).__name__
        with pytest.raises(ValueError, match=rf"`{name}\(unit_axis=2\)`.*\(3, 4\)"):
            make().init({"bias": jnp.ones(4), "weight": jnp.ones((3, 4))})


def test_clip_by_value_keeps_the_direction_of_complex_entries():
    z = jnp.array([3 + 4j, 0.3 + 0.4j, 0j], jnp.complex64)
    clip = eqxopt.ClipByValue(1.0).init(z)
    update, _ = clip.update(z, z)
    np.testing.assert_allclose(update, [0.6 + 0.8j, 0.3 + 0.4j, 0], rtol=1e-6)


def test_clip_by_value_bounds_infinities():
    x = jnp.array([-jnp.inf, jnp.inf, 0.5])
    update, _ = eqxopt.ClipByValue(1.0).init(x).update(x, x)
    np.testing.assert_array_equal(update, [-1, 1, 0.5])


def test_noise_is_that_of_noisy_sgd(x64):
    params = nested_params(jnp.float64)
    noise = eqxopt.AddNoise(0.3, 0.7, seed=5).init(params)
    noisy = eqxopt.NoisySGD(1.0, 0.3, 0.7, seed=5).init(params)
    for _ in range(3):
        ours, noise = noise.update(params, params)
        theirs, noisy = noisy.update(params, params)
        assert_close(ours, jax.tree.map(jnp.negative, theirs), rtol=1e-12)


def test_normalize_without_eps():
    params = {"a": jnp.array([3.0]), "b": jnp.array([4.0]), "zero": jnp.zeros(2)}
    for per_parameter, expected in ((False, 0.6), (True, 1.0)):
        normalize = eqxopt.Normalize(eps=0.0, per_parameter=per_parameter).init(params)
        updates, _ = normalize.update(params, params)
        np.testing.assert_allclose(updates["a"], expected, rtol=1e-6)
        np.testing.assert_array_equal(updates["zero"], 0)


def test_trust_ratio_of_parameters_at_zero():
    zero, one = jnp.zeros(2), jnp.ones(2)
    scale = eqxopt.ScaleByTrustRatio().init(zero)
    np.testing.assert_array_equal(scale.update(one, zero)[0], one)
    np.testing.assert_array_equal(scale.update(zero, one)[0], zero)


def test_decay_where_the_mask_is_true():
    params = {"weight": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    mask = lambda path, array: "weight" in path
    decay = eqxopt.AddDecayedWeights(0.5, mask).init(params)
    updates, _ = decay.update(params, params)
    np.testing.assert_array_equal(updates["weight"], 1.5)
    np.testing.assert_array_equal(updates["bias"], 1.0)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.complex64])
def test_account_of_nans(dtype):
    params = {"a": jnp.ones(3, dtype), "b": jnp.ones((), dtype)}
    zero = eqxopt.ZeroNaNs().init(params)
    bad = params | {"a": jnp.array([1, np.nan, 3], dtype)}
    updates, zero = zero.update(bad, params)
    np.testing.assert_array_equal(updates["a"], [1, 0, 3])
    assert zero.state["a"].found and not zero.state["b"].found
    _, zero = zero.update(params, params)
    _, zero = zero.update(bad, params)
    _, zero = zero.update(params, params)
    assert not zero.state["a"].found
    assert (zero.state["a"].updates, zero.state["b"].updates) == (2, 0)


class TestKeepInBox:
    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
    def test_never_outside(self, dtype, x64):
        """Rounding included, from inside and from outside."""
        keys = jax.random.split(jax.random.key(0), 3)
        scale = 10 ** jax.random.uniform(keys[0], (20_000,), dtype, -6, 6)
        params = scale * jax.random.normal(keys[1], scale.shape, dtype)
        u = scale * jax.random.normal(keys[2], scale.shape, dtype)
        low, high = -0.1, 0.7
        for inside in (False, True):
            params = jnp.clip(params, low, high) if inside else params
            keep = eqxopt.KeepInBox(low, high).init(params)
            new, _ = eqxopt.Chain(eqxopt.SGD(1.0), keep).init(params).apply(u, params)
            ends = np.asarray([low, high], dtype)
            tolerance = 0 if inside else 2 * np.finfo(dtype).eps * np.abs(params)
            assert np.all(ends[0] <= new + tolerance)
            assert np.all(new - tolerance <= ends[1])
            if inside:
                assert np.any(new == ends[0]) and np.any(new == ends[1])

    def test_nearest_bfloat16(self):
        params = jnp.linspace(0.3, 0.6, 50, dtype=jnp.bfloat16)
        opt = eqxopt.Chain(eqxopt.SGD(1.0), eqxopt.KeepInBox(0.301, 0.599))
        grads = jnp.tile(jnp.asarray([1, -1], jnp.bfloat16), 25)
        new, _ = opt.init(params).apply(grads, params)
        assert set(np.asarray(new, float)) == {
            float(jnp.asarray(x, jnp.bfloat16)) for x in (0.301, 0.599)
        }

    def test_inside_the_update_is_untouched(self):
        x = jnp.array([0.1, 0.2, 0.3])
        u = jnp.array([0.012345, -0.1, 0.2])
        keep = eqxopt.KeepInBox(0.0, 1.0).init(x)
        np.testing.assert_array_equal(keep.update(u, x)[0], u)

    def test_bounds_of_some_parameters(self):
        params = {"gain": jnp.ones(2), "weight": jnp.ones(2)}
        low = lambda path, array: 0.5 if "gain" in path else -jnp.inf
        keep = eqxopt.KeepInBox(low).init(params)
        downward = {"gain": -jnp.ones(2), "weight": -3 * jnp.ones(2)}
        updates, _ = keep.update(downward, params)
        np.testing.assert_array_equal(updates["gain"], -0.5)
        np.testing.assert_array_equal(updates["weight"], -3.0)

    def test_low_above_high(self):
        with pytest.raises(ValueError, match=r"low=1.0, high=0.0.*`low` must not be"):
            eqxopt.KeepInBox(1.0, 0.0).init(jnp.ones(2))
