"""Mechanic beside optax, and what it makes of a learning rate that is far off."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from problems import nested_params
from training_loops import assert_close, trained, trained_by_optax

import eqxopt


def falling(step):
    return 1.0 - 0.03 * jnp.asarray(step, float)


@pytest.mark.parametrize(
    "ours, theirs",
    [
        (
            lambda: eqxopt.Mechanic(eqxopt.SGD(1.0)),
            lambda: optax.contrib.mechanize(optax.sgd(1.0)),
        ),
        (
            lambda: eqxopt.Mechanic(eqxopt.AdamW(falling), 0.1, 1e-3, 0.01, 3),
            lambda: optax.contrib.mechanize(optax.adamw(falling), 0.1, 1e-3, 0.01, 3),
        ),
        (
            lambda: eqxopt.Mechanic(eqxopt.PolyakSGD(), s_init=0.1),
            lambda: optax.contrib.mechanize(optax.polyak_sgd(), s_init=0.1),
        ),
    ],
)
def test_optax(ours, theirs, x64):
    params = nested_params(jnp.float64)
    for (opt, our), (state, their) in zip(
        trained(ours(), params), trained_by_optax(theirs(), params), strict=True
    ):
        assert_close(our, their)
        np.testing.assert_allclose(opt.scale, jnp.sum(state.s), rtol=1e-10)


@pytest.mark.parametrize("rate", [1.0, 1e3])
def test_the_rate_hardly_matters(rate):
    f = lambda x: jnp.sum(x**2)

    def body(carry, _):
        x, opt = carry
        return opt.apply(jax.grad(f)(x), x), None

    x = jnp.array([1.0, 2.0, 3.0])
    opt = eqxopt.Mechanic(eqxopt.Adam(rate)).init(x)
    (x, _), _ = jax.lax.scan(body, (x, opt), length=400)
    assert f(x) < 0.05


def test_without_gradients_nothing_is_bet():
    params = {"x": jnp.ones(2)}
    opt = eqxopt.Mechanic(eqxopt.SGD(1.0), s_init=0.1).init(params)
    params, opt = opt.apply(params, params)
    new, new_opt = opt.apply({"x": None}, params)
    assert new_opt.scale == opt.scale and new_opt.count == 2
    np.testing.assert_array_equal(new["x"], params["x"])


def test_mistakes():
    with pytest.raises(ValueError, match=r"`num_betas` must be an integer"):
        eqxopt.Mechanic(eqxopt.SGD(1.0), num_betas=0)
    with pytest.raises(ValueError, match="`Mechanic` has no state"):
        _ = eqxopt.Mechanic(eqxopt.SGD(1.0)).scale
    params = {"x": jnp.ones(2)}
    match = "`Mechanic.eps` is one number for the whole model"
    with pytest.raises(TypeError, match=match):
        eqxopt.Mechanic(eqxopt.SGD(1.0), eps={"x": 0.1}).init(params)
