"""StableAdamW as in Algorithm 2 of the paper, in NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

import eqxopt


def gradient(x, step):
    # Every seventh gradient is a surprise.
    scale = 30.0 if step % 7 == 0 else 1.0
    return scale * (np.sin(x * (1 + 0.1 * step)) + 0.2 * x)


def stable_adamw(theta, alpha, beta1, beta2, eps, lam, d, steps):
    v, u = np.zeros_like(theta), np.zeros_like(theta)
    clipped = 0
    for t in range(1, steps + 1):
        g = gradient(theta, t)
        beta1_hat = beta1 * (1 - beta1 ** (t - 1)) / (1 - beta1**t)
        beta2_hat = beta2 * (1 - beta2 ** (t - 1)) / (1 - beta2**t)
        v = beta1_hat * v + (1 - beta1_hat) * g
        u = beta2_hat * u + (1 - beta2_hat) * g**2
        rms = np.sqrt(np.mean(g**2 / np.maximum(u, eps**2)))
        clipped += rms > d
        eta = alpha / max(1, rms / d)
        theta = theta - eta * lam * theta - eta * v / (np.sqrt(u) + eps)
    return theta, clipped


OPTIONS = [(0.9, 0.99, 1e-8, 0.2, 1.0), (0.8, 0.9, 1e-1, 0.5, 0.7)]


@pytest.mark.parametrize("b1, b2, eps, lam, d", OPTIONS)
def test_paper(b1, b2, eps, lam, d, x64):
    rng = np.random.default_rng(0)
    layers = [rng.normal(size=shape) for shape in [(3,), (4, 3), ()]]
    params = [jnp.asarray(x) for x in layers]
    opt = eqxopt.StableAdamW(
        0.05, b1, b2, eps, weight_decay=lam, clipping_threshold=d
    ).init(params)
    for t in range(1, 26):
        grads = [jnp.asarray(gradient(np.asarray(x), t)) for x in params]
        params, opt = opt.apply(grads, params)
    for ours, theta in zip(params, layers):
        paper, clipped = stable_adamw(theta, 0.05, b1, b2, eps, lam, d, 25)
        assert clipped > 2
        np.testing.assert_allclose(ours, paper, rtol=1e-10)


def test_mask(x64):
    x = {"w": jnp.ones(3), "b": jnp.ones(3)}
    opt = eqxopt.StableAdamW(0.1, mask={"w": True, "b": False}).init(x)
    zeros = {"w": jnp.zeros(3), "b": jnp.zeros(3)}
    x, opt = opt.apply(zeros, x)
    np.testing.assert_allclose(x["w"], 0.98, rtol=1e-14)
    np.testing.assert_array_equal(x["b"], 1.0)
