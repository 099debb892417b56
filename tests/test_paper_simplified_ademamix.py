"""Simplified AdEMAMix by the formulas of the paper, in NumPy."""

import jax.numpy as jnp
import numpy as np

import eqxopt


def gradient(x, step):
    return np.sin(x * (1 + 0.1 * step)) + 0.2 * x


def simplified_ademamix(x, eta, beta1, beta2, alpha, eps, lam, steps):
    m, nu = np.zeros_like(x), np.zeros_like(x)
    for t in range(1, steps + 1):
        g = gradient(x, t)
        m = beta1 * m + g
        nu = beta2 * nu + (1 - beta2) * g**2
        denominator = np.sqrt(nu / (1 - beta2**t)) + eps
        x = x - eta * ((m + alpha * g) / denominator + lam * x)
    return x


def adam(x, eta, beta1, beta2, eps, steps):
    """Without correcting the bias of the first moment."""
    m, nu = np.zeros_like(x), np.zeros_like(x)
    for t in range(1, steps + 1):
        g = gradient(x, t)
        m = beta1 * m + (1 - beta1) * g
        nu = beta2 * nu + (1 - beta2) * g**2
        x = x - eta * m / (np.sqrt(nu / (1 - beta2**t)) + eps)
    return x


def trained(opt, x):
    params = jnp.asarray(x)
    opt = opt.init(params)
    for t in range(1, 26):
        grads = jnp.asarray(gradient(np.asarray(params), t))
        params, opt = opt.apply(grads, params)
    return params


X = np.random.default_rng(0).normal(size=(4, 3))


def test_paper(x64):
    opt = eqxopt.SimplifiedAdEMAMix(0.01, 0.9, 0.95, 3.0, 1e-3, weight_decay=0.1)
    paper = simplified_ademamix(X, 0.01, 0.9, 0.95, 3.0, 1e-3, 0.1, 25)
    np.testing.assert_allclose(trained(opt, X), paper, rtol=1e-10)


def test_adam_without_alpha(x64):
    """With the learning rate divided by the length of the memory."""
    opt = eqxopt.SimplifiedAdEMAMix(0.01 * (1 - 0.9), 0.9, 0.95, eps=1e-3)
    expected = adam(X, 0.01, 0.9, 0.95, 1e-3, 25)
    np.testing.assert_allclose(trained(opt, X), expected, rtol=1e-10)
