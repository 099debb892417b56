"""Which parameters decay, and when."""

import jax.numpy as jnp
import numpy as np
import pytest

import eqxopt


@pytest.mark.parametrize(
    "make, left",
    [
        (lambda mask: eqxopt.AcProp(0.1, weight_decay=0.5, mask=mask), 0.95),
        (lambda mask: eqxopt.Adan(0.1, weight_decay=0.5, mask=mask), 1 / 1.05),
        (lambda mask: eqxopt.LaProp(0.1, weight_decay=0.5, mask=mask), 0.95),
        (lambda mask: eqxopt.StableAdamW(0.1, mask=mask), 0.98),
    ],
    ids=["AcProp", "Adan", "LaProp", "StableAdamW"],
)
def test_only_the_mask_decays(make, left, x64):
    x = {"w": jnp.ones(3), "b": jnp.ones(3)}
    opt = make({"w": True, "b": False}).init(x)
    zeros = {"w": jnp.zeros(3), "b": jnp.zeros(3)}
    x, opt = opt.apply(zeros, x)
    np.testing.assert_allclose(x["w"], left, rtol=1e-14)
    np.testing.assert_array_equal(x["b"], 1.0)


def test_laprop_at_a_rate_of_zero_moves_nothing():
    x = jnp.ones(3)
    opt = eqxopt.LaProp(0.0, weight_decay=0.1).init(x)
    new, opt = opt.apply(x, x)
    np.testing.assert_array_equal(new, x)
    new, opt = opt.replace(learning_rate=0.1).apply(x, x)
    np.testing.assert_allclose(new, 0.89, rtol=1e-6)
