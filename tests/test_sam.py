"""Sharpness-aware minimization beside optax, and its adaptive form in NumPy."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from problems import Model, nested_params
from training_loops import assert_close, trained, trained_by_optax

import eqxopt


@pytest.mark.parametrize("rho", [0.05, 0.5])
def test_optax(rho, x64):
    adversary = optax.chain(optax.contrib.normalize(), optax.sgd(rho))
    theirs = optax.contrib.sam(
        optax.adam(0.1), adversary, sync_period=2, opaque_mode=True
    )
    params = nested_params(jnp.float64)
    ours = trained(eqxopt.SAM(eqxopt.Adam(0.1), rho), params)
    expected = trained_by_optax(theirs, params, needs=["grad_fn"])
    for (_, our), (_, their) in zip(ours, expected, strict=True):
        assert_close(our, their)


def gradient(x, t):
    phase = 1 + 0.1 * t
    return phase * (-np.sin(phase * x) + 0.2 * phase * x)


@pytest.mark.parametrize("adaptive", [False, True])
def test_paper(adaptive, x64):
    rng = np.random.default_rng(0)
    w, b = rng.normal(size=(4, 3)), rng.normal(size=3)
    params = {"b": jnp.asarray(b), "w": jnp.asarray(w)}
    opt = eqxopt.SAM(eqxopt.SGD(0.1), 0.5, adaptive)
    for t, (_, params) in enumerate(trained(opt, params)):
        theta = np.concatenate([w.ravel(), b])
        g = gradient(theta, t)
        scale = np.abs(theta) if adaptive else np.ones_like(theta)
        worst = theta + 0.5 * scale**2 * g / np.linalg.norm(scale * g)
        theta = theta - 0.1 * gradient(worst, t)
        w, b = theta[:12].reshape(4, 3), theta[12:]
        assert_close(params, {"b": b, "w": w})


def test_where_the_gradient_is_zero():
    """Not NaN, and neither are derivatives through the step."""
    params = {"x": jnp.zeros(2), "fixed": jnp.ones(2)}
    value_fn = lambda p: jnp.sum(p["x"] ** 2 + p["fixed"])
    grads = {"x": jnp.zeros(2), "fixed": None}

    def after(rho, adaptive):
        opt = eqxopt.SAM(eqxopt.SGD(0.1), rho, adaptive).init(params)
        new, _ = opt.apply(grads, params, value_fn=value_fn)
        return jnp.sum(new["x"]), new

    for adaptive in (False, True):
        slope, new = jax.grad(after, has_aux=True)(0.05, adaptive)
        assert slope == 0
        assert_close(new, params)


def test_scales_that_the_model_ignores():
    """Adaptive shifts do the same to a model whose weights are scaled against each
    other."""

    def loss(p):
        return jnp.sum(jnp.sin(3.0 * p["a"] * p["b"]))

    def product(params, adaptive):
        opt = eqxopt.SAM(eqxopt.SGD(0.0), 0.5, adaptive).init(params)
        seen = []

        def value_fn(p):
            seen.append(jax.lax.stop_gradient(p["a"] * p["b"]))
            return loss(p)

        opt.update(jax.grad(loss)(params), params, value_fn=value_fn)
        return seen[0]

    a, b = jnp.asarray([0.5, -0.2]), jnp.asarray([0.3, 0.7])
    for adaptive in (False, True):
        one = product({"a": a, "b": b}, adaptive)
        other = product({"a": 10 * a, "b": b / 10}, adaptive)
        assert np.allclose(one, other, rtol=1e-5) == adaptive


def test_a_model_with_functions_in_it():
    model = Model()
    x = jnp.ones(3)
    loss = lambda model, x: jnp.sum(model(x) ** 2)
    step = eqxopt.make_step(loss, donate=False)
    opt = eqxopt.SAM(eqxopt.SGD(0.01)).init(model)
    before = loss(model, x)
    for _ in range(3):
        model, opt, value = step(model, opt, x)
    assert value < before and type(model) is Model


def test_frozen_parameters_are_not_shifted():
    model = eqx.nn.Linear(2, 2, key=jax.random.key(0))
    seen = []

    def value_fn(model):
        seen.append(model.bias)
        return jnp.sum(model.weight**2)

    grads = eqx.tree_at(lambda m: m.bias, model, None)
    opt = eqxopt.SAM(eqxopt.SGD(0.1)).init(model)
    opt.update(grads, model, value_fn=value_fn)
    assert seen[0] is model.bias


class TestMistakes:
    def test_without_value_fn(self):
        opt = eqxopt.SAM(eqxopt.SGD(0.1)).init(jnp.ones(2))
        match = "`SAM` needs the loss as a function of the model: call"
        with pytest.raises(ValueError, match=match):
            opt.apply(jnp.ones(2), jnp.ones(2), value=1.0)

    def test_a_value_fn_that_gives_no_scalar(self):
        opt = eqxopt.SAM(eqxopt.SGD(0.1)).init(jnp.ones(2))
        with pytest.raises(ValueError, match=r"`SAM`: `value_fn` must .*\(2,\)"):
            opt.apply(jnp.ones(2), jnp.ones(2), value_fn=lambda x: x)
