"""ACProp as in the paper, with its code's bias correction, in NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

import eqxopt


def gradient(x, step):
    return np.sin(x * (1 + 0.1 * step)) + 0.2 * x


def acprop(theta, alpha, beta1, beta2, eps, eps_root, lam, steps):
    m, s = np.zeros_like(theta), np.zeros_like(theta)
    for t in range(1, steps + 1):
        g = gradient(theta, t)
        m = beta1 * m + (1 - beta1) * g
        s_hat = s / (1 - beta2 ** (t - 1)) if t > 1 else np.ones_like(s)
        theta = theta - alpha * (g / (np.sqrt(s_hat) + eps) + lam * theta)
        # The divisor is that of the step before, the variance is updated last.
        s = beta2 * s + (1 - beta2) * (g - m) ** 2 + eps_root
    return theta


OPTIONS = [
    (0.9, 0.999, 1e-16, 1e-16, 0.0),
    (0.7, 0.9, 1e-2, 1e-3, 0.3),
]


@pytest.mark.parametrize("options", OPTIONS)
def test_paper(options, x64):
    theta = np.random.default_rng(0).normal(size=(4, 3))
    x = jnp.asarray(theta)
    opt = eqxopt.AcProp(0.01, *options).init(x)
    for t in range(1, 26):
        x, opt = opt.apply(jnp.asarray(gradient(np.asarray(x), t)), x)
    np.testing.assert_allclose(x, acprop(theta, 0.01, *options, 25), rtol=1e-10)


def test_mask(x64):
    x = {"w": jnp.ones(3), "b": jnp.ones(3)}
    opt = eqxopt.AcProp(0.1, weight_decay=0.5, mask={"w": True, "b": False}).init(x)
    zeros = {"w": jnp.zeros(3), "b": jnp.zeros(3)}
    x, opt = opt.apply(zeros, x)
    np.testing.assert_allclose(x["w"], 0.95, rtol=1e-14)
    np.testing.assert_array_equal(x["b"], 1.0)
