"""RAdam in float32, and its slopes on both sides of the threshold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import nested_loss

import eqxopt


def iterates(opt, theta, grads):
    theta = jnp.asarray(theta, float)

    def step(carry, g):
        theta, opt = carry[1].apply(g, carry[0])
        return (theta, opt), theta

    return jax.lax.scan(step, (theta, opt.init(theta)), jnp.asarray(grads, float))[1]


@pytest.mark.parametrize("beta2", [0.9, 0.999, 0.9999, 0.99999])
def test_float32_knows_when_and_how_far_to_rectify(beta2):
    grads = np.random.default_rng(0).normal(size=(25, 4, 3)).astype(np.float32)
    theta = np.ones((4, 3), np.float32)
    # Both get the number that float32 has for it.
    beta2 = np.float32(beta2)
    got = iterates(eqxopt.RAdam(0.1, b2=beta2), theta, grads)
    with jax.enable_x64(True):
        expected = iterates(eqxopt.RAdam(0.1, b2=float(beta2)), theta, grads)
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("b2", [0.0, 0.6, 0.9, 0.999])
def test_gradients_on_both_sides_of_the_threshold(b2, x64):
    def final_loss(h):
        params = {"x": jnp.asarray([-1.2, 0.0, 0.7])}  # the gradient at 0 is 0

        def step(carry, i):
            params, opt = carry
            grads = jax.grad(nested_loss)(params, i)
            return opt.apply(grads, params), None

        carry = params, eqxopt.RAdam(**h).init(params)
        (params, _), _ = jax.lax.scan(step, carry, jnp.arange(8.0))
        return nested_loss(params)

    at = {"learning_rate": 0.1, "b1": 0.9, "b2": b2, "threshold": 5.0}
    at = {k: jnp.asarray(x) for k, x in at.items()}
    final_loss = jax.jit(final_loss)
    slopes = jax.jit(jax.grad(final_loss))(at)
    assert all(np.isfinite(slope) for slope in slopes.values())
    for name, x in at.items():
        if x > 0:
            h = 1e-6 * x
            up, down = (final_loss(at | {name: x + d}) for d in (h, -h))
            np.testing.assert_allclose(
                slopes[name], (up - down) / (2 * h), rtol=1e-5, atol=1e-6
            )


def test_threshold_out_of_range():
    with pytest.raises(ValueError, match=r"`RAdam\(threshold=3.0\)`.*in \[4, inf\)"):
        eqxopt.RAdam(0.1, threshold=3.0)
