"""Matrices of constant norm: the authors' rule in NumPy, and its edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import nested_loss
from training_loops import bits

import eqxopt


def gradient(x, t):
    return np.sin(x * (1 + 0.1 * t)) + 0.2 * x


@pytest.mark.parametrize("initial_norm", [True, False])
@pytest.mark.parametrize("rate", [None, 0.07])
def test_reference(rate, initial_norm, x64):
    rng = np.random.default_rng(0)
    shapes = {"matrix": (4, 3), "kernel": (3, 2, 2), "stack": (2, 3, 3), "bias": (3,)}
    x = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    params = jax.tree.map(jnp.asarray, x)
    schedule = eqxopt.schedules.Linear(0.1, 0.01, 20)
    inner = eqxopt.Adam(schedule)
    opt = eqxopt.Hyperball(
        inner,
        rate,
        matrices={"matrix": True, "kernel": True, "stack": "stack", "bias": False},
        initial_norm=initial_norm,
    ).init(params)
    inner = inner.init(params)

    def norm(name, x):
        axes = {"stack": (1, 2), "bias": ()}.get(name)
        return np.sqrt(np.sum(x**2, axis=axes, keepdims=True))

    radius = {name: norm(name, x[name]) for name in x}
    for t in range(25):
        eta = float(schedule(t)) if rate is None else rate
        grads = {name: jnp.asarray(gradient(x[name], t)) for name in x}
        updates, inner = inner.update(grads, params)
        for name in x:
            u = np.asarray(updates[name])
            if name == "bias":
                x[name] = x[name] + u
                continue
            r = radius[name] if initial_norm else norm(name, x[name])
            moved = x[name] + eta * r * u / norm(name, u)
            x[name] = r * moved / norm(name, moved)
        params, opt = opt.apply(grads, params)
        for name in x:
            np.testing.assert_allclose(params[name], x[name], rtol=1e-10)
    for name in ("matrix", "kernel", "stack"):
        np.testing.assert_allclose(norm(name, x[name]), radius[name], rtol=1e-12)


def test_the_size_of_the_update_does_not_matter():
    params = {"w": jax.random.normal(jax.random.key(0), (3, 4))}
    new = []
    for size in (1e-30, 1.0, 1e15):
        opt = eqxopt.Hyperball(eqxopt.SGD(0.1)).init(params)
        grads = {"w": size * jax.random.normal(jax.random.key(1), (3, 4))}
        new.append(opt.apply(grads, params)[0]["w"])
    np.testing.assert_allclose(new[0], new[1], rtol=1e-5)
    np.testing.assert_allclose(new[2], new[1], rtol=1e-5)


@pytest.mark.parametrize("initial_norm", [True, False])
def test_zeros(initial_norm, x64):
    """Where the matrix or the update is 0 nothing moves, and slopes are finite."""
    params = {"zero": jnp.zeros((2, 2)), "still": jnp.ones((2, 2)), "b": jnp.ones(2)}
    grads = {"zero": jnp.ones((2, 2)), "still": jnp.zeros((2, 2)), "b": jnp.ones(2)}
    params["still"] = params["still"].at[0, 0].set(-0.0)

    def trained(rate, params):
        opt = eqxopt.Hyperball(eqxopt.SGD(rate), initial_norm=initial_norm).init(params)
        for _ in range(2):
            params, opt = opt.apply(grads, params)
        return sum(jnp.sum(x) for x in jax.tree.leaves(params)), params

    slopes, new = jax.grad(trained, argnums=(0, 1), has_aux=True)(0.1, params)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(slopes))
    assert bits(new["zero"]) == bits(params["zero"])
    assert bits(new["still"]) == bits(params["still"])


def test_slopes_are_those_of_the_loss(x64):
    params = {"w": jax.random.normal(jax.random.key(0), (3, 4), float)}

    @jax.jit
    def trained(rate):
        opt, p = eqxopt.Hyperball(eqxopt.Adam(1.0), rate).init(params), params
        for _ in range(3):
            p, opt = opt.apply(jax.grad(nested_loss)(p), p)
        return nested_loss(p)

    slope = (trained(0.1 + 1e-6) - trained(0.1 - 1e-6)) / 2e-6
    np.testing.assert_allclose(jax.grad(trained)(0.1), slope, rtol=1e-6)


def test_bfloat16_keeps_the_initial_norm():
    params = {"w": jax.random.normal(jax.random.key(0), (16, 16), jnp.bfloat16)}
    opt = eqxopt.Hyperball(eqxopt.Adam(0.01)).init(params)
    assert opt.state["w"].radius.dtype == jnp.float32
    before = jnp.linalg.norm(params["w"].astype(float))
    step = jax.jit(lambda opt, g, p: opt.apply(g, p))
    for i in range(100):
        grads = {"w": jax.random.normal(jax.random.key(i), (16, 16), jnp.bfloat16)}
        params, opt = step(opt, grads, params)
    np.testing.assert_allclose(
        jnp.linalg.norm(params["w"].astype(float)), before, rtol=1e-3
    )


class TestMistakes:
    def test_no_rate(self):
        params = {"w": jnp.ones((2, 2))}
        match = "`Hyperball`: `PolyakSGD` has no learning rate.*: give `rate`"
        with pytest.raises(ValueError, match=match):
            eqxopt.Hyperball(eqxopt.PolyakSGD()).init(params)
        eqxopt.Hyperball(eqxopt.PolyakSGD(), 0.01).init(params)

    def test_too_few_axes(self):
        with pytest.raises(ValueError, match=r"`Hyperball.matrices`, for \['b'\]"):
            eqxopt.Hyperball(eqxopt.SGD(0.1), matrices=True).init({"b": jnp.ones(2)})

    def test_a_matrix_that_init_did_not_see(self):
        opt = eqxopt.Hyperball(eqxopt.SGD(0.1)).init({"w": None})
        params = {"w": jnp.ones((2, 2))}
        with pytest.raises(ValueError, match=r"\['w'\] was no parameter when"):
            opt.apply(params, params)
