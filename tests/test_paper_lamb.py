"""LAMB as in Algorithm 2 of the paper, in NumPy."""

import jax.numpy as jnp
import numpy as np

import eqxopt


def gradient(x, step):
    return np.sin(x * (1 + 0.1 * step)) + 0.2 * x


def lamb(x, eta, beta1, beta2, eps, lam, steps):
    m, v = np.zeros_like(x), np.zeros_like(x)
    for t in range(1, steps + 1):
        g = gradient(x, t)
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        r = (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)
        phi = np.linalg.norm(x.ravel())
        x = x - eta * phi / np.linalg.norm((r + lam * x).ravel()) * (r + lam * x)
    return x


def test_paper(x64):
    rng = np.random.default_rng(0)
    layers = [rng.normal(size=shape) for shape in [(3,), (4, 3), (2, 2, 3)]]
    params = [jnp.asarray(x) for x in layers]
    opt = eqxopt.LAMB(0.05, 0.8, 0.95, 1e-3, weight_decay=0.1).init(params)
    for t in range(1, 26):
        grads = [jnp.asarray(gradient(np.asarray(x), t)) for x in params]
        params, opt = opt.apply(grads, params)
    for ours, x in zip(params, layers):
        paper = lamb(x, 0.05, 0.8, 0.95, 1e-3, 0.1, 25)
        np.testing.assert_allclose(ours, paper, rtol=1e-10)
