"""Adan as in Algorithm 1 of the paper, with its code's bias corrections, in NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

import eqxopt


def gradient(x, step):
    return np.sin(x * (1 + 0.1 * step)) + 0.2 * x


def adan(theta, eta, betas, eps, eps_root, lam, steps):
    # The paper's betas are what is averaged in, not what is kept.
    beta1, beta2, beta3 = (1 - b for b in betas)
    m, v, n = np.zeros_like(theta), np.zeros_like(theta), np.zeros_like(theta)
    previous = gradient(theta, 1)
    for k in range(1, steps + 1):
        g = gradient(theta, k)
        m = (1 - beta1) * m + beta1 * g
        v = (1 - beta2) * v + beta2 * (g - previous)
        n = (1 - beta3) * n + beta3 * (g + (1 - beta2) * (g - previous)) ** 2
        m_hat = m / (1 - (1 - beta1) ** k)
        v_hat = v / (1 - (1 - beta2) ** k)
        n_hat = n / (1 - (1 - beta3) ** k)
        eta_k = eta / (np.sqrt(n_hat + eps_root) + eps)
        theta = (theta - eta_k * (m_hat + (1 - beta2) * v_hat)) / (1 + lam * eta)
        previous = g
    return theta


OPTIONS = [
    ((0.98, 0.92, 0.99), 1e-8, 0.0, 0.0),
    ((0.8, 0.7, 0.9), 1e-3, 1e-4, 0.5),
]


@pytest.mark.parametrize("betas, eps, eps_root, lam", OPTIONS)
def test_paper(betas, eps, eps_root, lam, x64):
    theta = np.random.default_rng(0).normal(size=(4, 3))
    x = jnp.asarray(theta)
    opt = eqxopt.Adan(0.05, *betas, eps, eps_root, lam).init(x)
    for t in range(1, 26):
        x, opt = opt.apply(jnp.asarray(gradient(np.asarray(x), t)), x)
    expected = adan(theta, 0.05, betas, eps, eps_root, lam, 25)
    np.testing.assert_allclose(x, expected, rtol=1e-10)


def test_mask(x64):
    x = {"w": jnp.ones(3), "b": jnp.ones(3)}
    opt = eqxopt.Adan(0.1, weight_decay=0.5, mask={"w": True, "b": False}).init(x)
    zeros = {"w": jnp.zeros(3), "b": jnp.zeros(3)}
    x, opt = opt.apply(zeros, x)
    np.testing.assert_allclose(x["w"], 1 / 1.05, rtol=1e-14)
    np.testing.assert_array_equal(x["b"], 1.0)
