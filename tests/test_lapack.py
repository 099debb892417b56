"""On CPUs LAPACK sees one matrix after another: two batches at once could wait for each
other for ever."""

import re

import jax
import jax.numpy as jnp
import pytest

import eqxopt


pytestmark = pytest.mark.skipif(
    jax.default_backend() != "cpu", reason="LAPACK is for CPUs"
)


def assert_one_by_one(step, *args):
    text = jax.jit(jax.vmap(step)).lower(*args).compile().as_text()
    calls = re.findall(r"= (.*?) custom-call\(.*?target=\"lapack_", text)
    assert calls
    shapes = re.findall(r"\w\d+\[([\d,]*)\]", " ".join(calls))
    assert all(shape.count(",") <= 1 for shape in shapes)


@pytest.mark.parametrize("name", ["SOAP", "Shampoo", "KLShampoo", "PSGDKron", "GaLore"])
def test_matrices(name):
    params = {"a": jnp.ones((4, 6)), "b": jnp.ones((4, 6)), "c": jnp.ones((5, 3))}
    models = jax.tree.map(lambda x: jnp.stack([x, 2 * x, 3 * x]), params)
    opts = jax.vmap(getattr(eqxopt, name)(0.1).init)(models)
    assert_one_by_one(lambda opt, model: opt.apply(model, model), opts, models)


@pytest.mark.parametrize("name", ["GaussNewton", "LevenbergMarquardt"])
def test_curvature(name):
    models = jnp.arange(6.0).reshape(3, 2)
    residual_fn = lambda x: jnp.stack([x[0] - 1.0, x[0] * x[1], x[1] ** 2])
    loss_fn = lambda x: 0.5 * jnp.sum(residual_fn(x) ** 2)

    def step(opt, x):
        value, grads = jax.value_and_grad(loss_fn)(x)
        return opt.apply(
            grads, x, value=value, value_fn=loss_fn, residual_fn=residual_fn
        )

    opts = jax.vmap(getattr(eqxopt, name)().init)(models)
    assert_one_by_one(step, opts, models)
