"""Sophia's estimate of the curvature, which no loss of the shared suites needs more
than one draw for, and what it asks of the loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import Model

import eqxopt


def estimates(loss, params, steps=4000):
    """The estimates of the curvature at `params`, one a step."""
    zeros = jax.tree.map(jnp.zeros_like, params)

    def step(opt, _):
        _, opt = opt.update(zeros, params, value_fn=loss)
        return opt, opt.state

    opt = eqxopt.Sophia(0.1, b2=0.0, update_interval=1, seed=1).init(params)
    return jax.lax.scan(step, opt, length=steps)[1]


def test_unbiased(x64):
    """For a Hessian that is not diagonal, over parameters that share rows of it."""
    params = {"a": jnp.zeros(2), "b": jnp.zeros(())}
    root = jax.random.normal(jax.random.key(0), (3, 3))
    hessian = root + root.T

    def loss(p):
        x = jnp.append(p["a"], p["b"])
        return 0.5 * x @ hessian @ x

    drawn = estimates(loss, params)
    each = np.column_stack([drawn["a"].hessian, drawn["b"].hessian])
    assert len(np.unique(each[:, 0])) > 2
    np.testing.assert_allclose(each.mean(0), np.diag(hessian), atol=0.15)


def test_complex_curvature_is_the_mean_of_both_parts(x64):
    loss = lambda z: jnp.sum(z.real**2 + 2 * z.imag**2 + z.real * z.imag)
    drawn = estimates(loss, jnp.zeros(2, complex))
    np.testing.assert_allclose(drawn.hessian.mean(0), (2 + 4) / 2, atol=0.1)


def test_every_kth_step():
    x = jnp.ones(3)
    opt = eqxopt.Sophia(0.1, update_interval=3).init(x)
    kept = []
    for _ in range(7):
        x, opt = opt.apply(x, x, value_fn=lambda x: jnp.sum(x**4))
        kept.append(np.asarray(opt.state.hessian))
    changed = [not np.array_equal(a, b) for a, b in zip([0 * kept[0], *kept], kept)]
    assert changed == [True, False, False, True, False, False, True]


def test_a_parameter_without_gradient_is_constant():
    """Not even a loss that cannot be differentiated by it does harm."""

    def loss(p):
        return jnp.sum(p["w"] ** 2) + jax.lax.stop_gradient(jnp.sum(p["table"]))

    params = {"w": jnp.ones(2), "table": jnp.ones(3)}
    opt = eqxopt.Sophia(0.1).init(params)
    new, new_opt = opt.apply({"w": jnp.ones(2), "table": None}, params, value_fn=loss)
    np.testing.assert_array_equal(new["table"], params["table"])
    np.testing.assert_array_equal(new_opt.state["table"].hessian, 0)
    np.testing.assert_allclose(new_opt.state["w"].hessian, 0.02, rtol=1e-6)


def test_mistakes():
    x = jnp.ones(3)
    opt = eqxopt.Sophia(0.1).init(x)
    with pytest.raises(ValueError, match="`Sophia` needs the loss as a function"):
        opt.apply(x, x, value=1.0)
    with pytest.raises(ValueError, match=r"must give a scalar.*shape \(3,\)"):
        opt.apply(x, x, value_fn=lambda x: x)
    with pytest.raises(ValueError, match=r"`update_interval` must be an integer"):
        eqxopt.Sophia(0.1, update_interval=0)


def test_make_step():
    model = Model()
    loss_fn = lambda model, x: jnp.sum(model(x) ** 2)
    opt = eqxopt.Sophia(0.01).init(model)
    step = eqxopt.make_step(loss_fn, donate=False)
    x = jnp.ones(3)
    losses = []
    for _ in range(20):
        model, opt, loss = step(model, opt, x)
        losses.append(float(loss))
    assert losses[-1] < 0.5 * losses[0]


def test_seeds():
    x = jnp.ones(3)
    loss = lambda x: jnp.sum(x) ** 2

    def hessian(seed):
        return eqxopt.Sophia(0.1, seed=seed).init(x).apply(x, x, value_fn=loss)[1].state

    runs = np.asarray(jax.vmap(hessian)(jnp.arange(20)).hessian)
    assert len(np.unique(runs, axis=0)) > 1
    np.testing.assert_array_equal(runs[3], hessian(jax.random.key(3)).hessian)
