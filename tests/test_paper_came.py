"""CAME of Luo et al., 2023, transcribed: Algorithm 2 for matrices, and what its code
does with vectors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqxopt


def rms(x):
    return np.sqrt(np.mean(x**2))


def came(x, gradients, lr, b1, b2, b3, eps1, eps2, d, lam):
    n, m = x.shape
    ones_n, ones_m = np.ones((n, 1)), np.ones((m, 1))
    mean, r, s_r = np.zeros_like(x), np.zeros((n, 1)), np.zeros((n, 1))
    c, s_c = np.zeros((1, m)), np.zeros((1, m))
    for gradient in gradients:
        g = gradient(x)
        squares = g**2 + eps1
        r = b2 * r + (1 - b2) * squares @ ones_m / m
        c = b2 * c + (1 - b2) * ones_n.T @ squares / n
        v = r @ c / np.mean(r)
        u = g / np.sqrt(v)
        u_hat = u / max(1, rms(u) / d)
        mean = b1 * mean + (1 - b1) * u_hat
        instability = (u_hat - mean) ** 2 + eps2
        s_r = b3 * s_r + (1 - b3) * instability @ ones_m / m
        s_c = b3 * s_c + (1 - b3) * ones_n.T @ instability / n
        s = s_r @ s_c / np.mean(s_r)
        x = x - lr * mean / np.sqrt(s) - lr * lam * x
    return x


def vector(x, gradients, lr, b1, b2, b3, eps1, eps2, d, lam):
    mean, v = np.zeros_like(x), np.zeros_like(x)
    for gradient in gradients:
        g = gradient(x)
        v = b2 * v + (1 - b2) * (g**2 + eps1)
        u = g / np.sqrt(v)
        mean = b1 * mean + (1 - b1) * u / max(1, rms(u) / d)
        x = x - lr * mean - lr * lam * x
    return x


@pytest.mark.parametrize(
    "algorithm, shape",
    [(came, (3, 5)), (came, (5, 3)), (came, (4, 4)), (vector, (7,)), (vector, (3, 1))],
)
@pytest.mark.parametrize(
    "options",
    [
        (2e-4, 0.9, 0.999, 0.9999, 1e-30, 1e-16, 1.0, 0.0),
        (0.01, 0.8, 0.9, 0.95, 1e-3, 1e-4, 0.5, 0.1),
    ],
)
def test_paper(algorithm, shape, options, x64):
    rng = np.random.default_rng(0)
    start, shifts = rng.normal(size=shape), rng.normal(size=(25, *shape))
    gradients = [lambda x, a=a: np.sin(3 * x - a) * np.abs(a) for a in shifts]
    expected = algorithm(start, gradients, *options)

    x = jnp.asarray(start)
    opt = eqxopt.CAME(*options).init(x)
    step = jax.jit(lambda x, opt, g: opt.apply(g, x))
    for gradient in gradients:
        x, opt = step(x, opt, jnp.asarray(gradient(np.asarray(x))))
    np.testing.assert_allclose(x, expected, rtol=1e-10, atol=1e-10)


def test_memory():
    params = {"kernel": jnp.ones((20, 30, 3, 3)), "bias": jnp.ones((20, 1, 1))}
    state = eqxopt.CAME(0.1).init(params).state
    assert state["kernel"].row.shape == state["kernel"].instability_row.shape
    assert state["kernel"].row.shape == (20, 3, 3)
    assert state["kernel"].col.shape == (30, 3, 3)
    assert state["bias"].nu.shape == (20, 1, 1)
