"""Schedule-free training: the average, what it is made of, and optax's numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from problems import nested_params
from training_loops import assert_close, in_optax, trained, trained_by_optax

import eqxopt


SGD, AdamW = eqxopt.ScheduleFreeSGD, eqxopt.ScheduleFreeAdamW


def rate(step):
    return 0.1 * jnp.minimum(jnp.asarray(step, float) / 5, 1)


def later(step):
    """Optax weighs a step with the rate of the next."""
    return rate(step + 1)


@pytest.mark.parametrize(
    "ours, theirs",
    [
        (
            lambda: eqxopt.ScheduleFree(eqxopt.SGD(rate), later),
            lambda: optax.contrib.schedule_free(optax.sgd(rate), rate),
        ),
        (
            lambda: eqxopt.ScheduleFree(eqxopt.Adam(0.1, b1=0.0), None, 0.7, 1.3),
            lambda: optax.contrib.schedule_free(optax.adam(0.1, b1=0.0), 0.1, 0.7, 1.3),
        ),
        (lambda: SGD(0.125, 4), lambda: optax.contrib.schedule_free_sgd(0.125, 4)),
        (lambda: AdamW(0.125, 4), lambda: optax.contrib.schedule_free_adamw(0.125, 4)),
    ],
    ids=["schedule", "options", "SGD", "AdamW"],
)
def test_optax(ours, theirs, x64):
    params = nested_params(jnp.float64)
    evaluate = in_optax(jax.jit(optax.contrib.schedule_free_eval_params))
    opts = trained(ours(), params)
    for (opt, our), (state, their) in zip(
        opts, trained_by_optax(theirs(), params), strict=True
    ):
        assert_close(our, their)
        assert_close(opt.eval_params(our), evaluate(state, their))


@pytest.mark.parametrize(
    "make", [lambda b1: SGD(0.1, b1=b1), lambda b1: AdamW(0.1, b1=b1)]
)
def test_paper(make, x64):
    """All three sequences, of which only two are kept, in NumPy."""
    rng = np.random.default_rng(0)
    for shape in [(4, 3), (3,)]:
        x = y = z = rng.normal(size=shape)
        params, nu, opt = jnp.asarray(y), 0.0, make(0.8)
        opt = opt.init(params)
        for t in range(1, 26):
            g = np.sin(y * (1 + 0.1 * t)) + 0.2 * y
            nu = 0.999 * nu + 0.001 * g**2
            adam = np.sqrt(nu / (1 - 0.999**t)) + 1e-8
            z = z - 0.1 * (g if isinstance(opt, SGD) else g / adam)
            x = (1 - 1 / t) * x + z / t
            y = 0.8 * x + 0.2 * z
            params, opt = opt.apply(jnp.asarray(g), params)
            assert_close(params, y)
            assert_close(opt.eval_params(params), x)


@pytest.mark.parametrize("dtype, rtol", [(jnp.float32, 1e-6), (jnp.bfloat16, 1e-2)])
def test_optax_with_a_state_dtype(dtype, rtol, x64):
    """To the precision of that dtype: optax does part of its arithmetic in it."""
    params = nested_params(jnp.float64)
    theirs = optax.contrib.schedule_free_sgd(0.1, state_dtype=dtype)
    for (opt, our), (state, their) in zip(
        trained(SGD(0.1, state_dtype=dtype), params),
        trained_by_optax(theirs, params),
        strict=True,
    ):
        assert_close(our, their, rtol)
    assert opt.state["scalar"].z.dtype == state.z["scalar"].dtype == dtype


@pytest.mark.parametrize("make", [SGD, AdamW])
def test_complete_is_wrapped(make, x64):
    params = nested_params(jnp.float64)
    decay = {"scalar": False, "layers": True, "kernel": False}
    inner = eqxopt.SGD(0.1) if make is SGD else eqxopt.Adam(0.1, b1=0.0)
    if make is SGD:
        inner = eqxopt.Chain(eqxopt.AddDecayedWeights(0.3, mask=decay), inner)
    else:
        inner = eqxopt.AdamW(0.1, b1=0.0, weight_decay=0.3, mask=decay)
    whole = make(0.1, weight_decay=0.3, mask=decay)
    wrapped = trained(eqxopt.ScheduleFree(inner), params)
    for (_, a), (_, b) in zip(trained(whole, params), wrapped, strict=True):
        assert_close(a, b, rtol=1e-12)


def test_the_average_outlives_a_change_of_b1(x64):
    """It is computed with the `b1` that the model was made with."""
    params = jnp.ones(2)
    opt = eqxopt.ScheduleFree(eqxopt.SGD(0.5)).init(params)
    for _ in range(3):
        params, opt = opt.apply(params, params)
    before = opt.eval_params(params)
    np.testing.assert_array_equal(opt.replace(b1=0.5).eval_params(params), before)
    moved = opt.replace(b1=0.5, learning_rate=0.0)
    new, moved = moved.apply(params, params)
    z, total = opt.state.z, 3 * 0.25 + 0.25
    expected = before + 0.25 / total * (z - before)
    np.testing.assert_allclose(moved.eval_params(new), expected, rtol=1e-14)
    np.testing.assert_allclose(new, 0.5 * (expected + z), rtol=1e-14)


@pytest.mark.parametrize(
    "make", [SGD, AdamW, lambda *a: eqxopt.ScheduleFree(eqxopt.SGD(*a))]
)
def test_a_rate_of_zero(make):
    """Nothing to weigh: the average stays, and training can be differentiated."""
    params = {"x": jnp.ones(2)}

    def trained(rate, power):
        opt = make(rate).replace(weight_lr_power=power).init(params)
        new, opt = opt.apply(params, params)
        new, opt = opt.apply(params, new)
        return jnp.sum(opt.eval_params(new)["x"])

    zero = jnp.zeros(())
    for power in (0.0, 0.5, 2.0):
        assert trained(zero, jnp.asarray(power)) == 2
        slopes = jax.grad(trained, argnums=(0, 1))(zero, jnp.asarray(power))
        assert np.all(np.isfinite(slopes))


@pytest.mark.parametrize(
    "make", [SGD, AdamW, lambda *a, **k: eqxopt.ScheduleFree(eqxopt.SGD(*a), **k)]
)
def test_state_dtype(make):
    params = {"x": jnp.ones(2, jnp.bfloat16), "z": jnp.ones(2, jnp.complex64)}
    for dtype in (None, jnp.bfloat16):
        opt = make(0.1, state_dtype=dtype).init(params)
        _, opt = opt.apply(params, params)
        kept = {k: jax.tree.leaves(x)[0].dtype for k, x in opt.state.items()}
        assert kept == {"x": dtype or jnp.float32, "z": jnp.complex64}


def test_the_average_of_another_dtype():
    """It is as wide as the model."""
    params = {"x": jnp.ones(2, jnp.bfloat16), "n": 3}
    opt = SGD(0.1).init(params)
    evaluated = opt.eval_params(params)
    assert evaluated["x"].dtype == jnp.bfloat16 and evaluated["n"] == 3


class TestMistakes:
    def test_no_rate_or_several(self):
        params = {"a": jnp.ones(2), "b": jnp.ones(2)}
        several = eqxopt.Partition(
            {"one": eqxopt.SGD(0.1), "two": eqxopt.Adam(0.1)}, {"a": "one", "b": "two"}
        )
        for inner, match in [
            (
                eqxopt.PolyakSGD(),
                "`PolyakSGD` has no learning rate.*: give `weight_lr`",
            ),
            (several, "`Partition` has several learning rates.* or give `weight_lr`"),
        ]:
            with pytest.raises(ValueError, match=rf"`ScheduleFree`: {match}"):
                eqxopt.ScheduleFree(inner).init(params)
            eqxopt.ScheduleFree(inner, 1.0).init(params)

    @pytest.mark.parametrize(
        "make", [SGD, AdamW, lambda: eqxopt.ScheduleFree(eqxopt.SGD(1.0))]
    )
    def test_evaluated_before_init(self, make):
        with pytest.raises(ValueError, match="has no state: call"):
            make().eval_params(jnp.ones(2))
