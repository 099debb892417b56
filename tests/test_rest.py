"""When optimizers with a line search go on, and when they rest."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curve_fits import FITS

import eqxopt


SEARCHERS = {
    "LBFGS": eqxopt.LBFGS,
    "BFGS": eqxopt.BFGS,
    "SSBroyden": eqxopt.SSBroyden,
}
every_searcher = pytest.mark.parametrize("name", SEARCHERS)


@functools.partial(jax.jit, static_argnums=(2, 3))
def trained(opt, params, loss, steps):
    """The model and the optimizer at the end, and the optimizer after each step."""

    def step(carry, _):
        params, opt = carry
        value, grads = opt.value_and_grad(loss, params)
        params, opt = opt.apply(grads, params, value=value, value_fn=loss)
        seen = {"value": opt.value, "level_steps": opt.level_steps}
        return (params, opt), seen | {"evaluations": opt.evaluations}

    carry, history = jax.lax.scan(step, (params, opt), length=steps)
    return *carry, history


def misra1b(b):
    """A fit with a valley in which the loss is level to rounding."""
    x, y = FITS["Misra1a"].x, FITS["Misra1a"].y
    return jnp.sum(jnp.square(y - b[0] * (1 - (1 + b[1] * x / 2) ** -2)))


def saddle(x):
    """A saddle at (0, 0), minima at (0, 1) and (0, -1)."""
    return 3 + x[0] ** 2 + jnp.square(x[1] ** 2 - 1) / 4


@every_searcher
def test_through_a_flat_valley(name, x64):
    """The fit that NIST certifies, then rest."""
    for start in ([500.0, 1e-4], [250.0, 5e-4]):
        b = jnp.array(start)
        b, opt, history = trained(SEARCHERS[name]().init(b), b, misra1b, 300)
        np.testing.assert_allclose(b, [3.3799746163e2, 3.9039091287e-4], rtol=1e-5)
        np.testing.assert_allclose(opt.value, 7.5464681533e-2, rtol=1e-9)
        assert opt.evaluations == 0 and opt.failures >= 4
        assert history["evaluations"].sum() < 3000  # of 6000 without rest


@every_searcher
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_away_from_a_saddle(name, dtype, x64):
    """On the way the loss changes by less than rounding, and the gradients grow."""
    x = jnp.array([1.0, 1e-9 if dtype == "float64" else 1e-4], dtype)
    x, opt, history = trained(SEARCHERS[name]().init(x), x, saddle, 60)
    np.testing.assert_allclose(np.abs(x), [0, 1], atol=1e-6)
    assert opt.value == 3 and opt.evaluations == 0
    assert 0 < history["level_steps"].max() <= 20


@every_searcher
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
def test_rest_lasts(name, dtype, x64):
    """At a minimum nothing moves and nothing is evaluated, alone and under `vmap`, and
    the loss is above its lowest by rounding only."""

    def loss(x):
        weights = jnp.arange(1, 4, dtype=x.real.dtype)
        return 1e4 + jnp.sum(weights * (jnp.cosh(x.real - 0.5) + jnp.square(x.imag)))

    starts = jnp.array([[1.0, 2.0, 3.0], [0.1, -0.4, 0.2]]).astype(dtype)
    init = jax.vmap(lambda x: SEARCHERS[name]().init(x))

    run = lambda steps: jax.vmap(lambda opt, x: trained(opt, x, loss, steps))
    x, opt, history = run(120)(init(starts), starts)
    assert np.all(opt.evaluations == 0) and np.all(opt.failures >= 4)
    assert np.all(opt.level_steps <= 20)
    eps = np.finfo(opt.value.dtype).eps
    lowest = history["value"].min(axis=1)
    assert np.all(opt.value - lowest <= 400 * eps * lowest)
    new, after, later = run(30)(opt, x)
    assert eqx.tree_equal(new, x) and np.all(later["evaluations"] == 0)
    assert np.all(after.failures == opt.failures + 30)
    np.testing.assert_allclose(x, 0.5, atol=0.2 if eps > 1e-10 else 1e-5)


@every_searcher
def test_gradients_alone(name):
    """Where the loss shows nothing, the gradients lead to their minimum and to rest."""
    loss = lambda x: 1e8 + 1e-3 * jnp.sum(jnp.cos(x))
    x = jnp.array([2.0, 4.0])
    x, opt, _ = trained(SEARCHERS[name]().init(x), x, loss, 60)
    np.testing.assert_allclose(x, np.pi, atol=1e-3)
    assert opt.value == 1e8 and opt.evaluations == 0 and opt.level_steps <= 20


@every_searcher
def test_shorter_steps_after_failures(name, x64):
    """Along the gradient, a lower point is a trillionth of the first trial away."""
    scale = 1e-13
    loss = lambda x: 1 + jnp.sum(jnp.square(x / scale))
    x = jnp.array([scale, -scale])
    opt = SEARCHERS[name](linesearch=eqxopt.ZoomLineSearch(10)).init(x)
    x, opt, _ = trained(opt, x, loss, 40)
    np.testing.assert_allclose(x, 0, atol=1e-7 * scale)
    assert opt.value == 1 and opt.evaluations == 0
