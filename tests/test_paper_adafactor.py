"""Adafactor of Shazeer and Stern, 2018, transcribed: Algorithm 4 for matrices,
Algorithm 5 for vectors, with the hyperparameters of Algorithm 6."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqxopt


EPS1, EPS2, D = 1e-30, 1e-3, 1.0


def rms(x):
    return np.sqrt(np.mean(x**2))


def step_size(x, t):
    rho = min(1e-2, 1 / np.sqrt(t))
    return max(EPS2, rms(x)) * rho


def matrix(x, gradients):
    n, m = x.shape
    ones_n, ones_m = np.ones((n, 1)), np.ones((m, 1))
    r, c = np.zeros((n, 1)), np.zeros((1, m))
    for t, gradient in enumerate(gradients, 1):
        alpha = step_size(x, t)
        g = gradient(x)
        beta2 = 1 - t**-0.8
        squares = g**2 + EPS1 * ones_n @ ones_m.T
        r = beta2 * r + (1 - beta2) * squares @ ones_m
        c = beta2 * c + (1 - beta2) * ones_n.T @ squares
        v = r @ c / (ones_n.T @ r)
        u = g / np.sqrt(v)
        u = u / max(1, rms(u) / D)
        x = x - alpha * u
    return x


def vector(x, gradients):
    v = np.zeros_like(x)
    for t, gradient in enumerate(gradients, 1):
        alpha = step_size(x, t)
        g = gradient(x)
        beta2 = 1 - t**-0.8
        v = beta2 * v + (1 - beta2) * (g**2 + EPS1)
        u = g / np.sqrt(v)
        u = u / max(1, rms(u) / D)
        x = x - alpha * u
    return x


def paper_rate(step):
    return jnp.minimum(1e-2, (step.astype(float) + 1.0) ** -0.5)


@pytest.mark.parametrize(
    "algorithm, shape",
    [(matrix, (3, 5)), (matrix, (5, 3)), (matrix, (4, 4)), (vector, (7,))],
)
@pytest.mark.parametrize("scale", [1.0, 1e-5])
def test_paper(algorithm, shape, scale, x64):
    rng = np.random.default_rng(0)
    start, target = scale * rng.normal(size=shape), rng.normal(size=(25, *shape))
    gradients = [lambda x, a=a: np.sin(3 * x - a) * np.abs(a) for a in target]
    expected = algorithm(start, gradients)

    x = jnp.asarray(start)
    opt = eqxopt.Adafactor(paper_rate, min_dim_size_to_factor=3).init(x)
    step = jax.jit(lambda x, opt, g: opt.apply(g, x))
    for gradient in gradients:
        x, opt = step(x, opt, jnp.asarray(gradient(np.asarray(x))))
    np.testing.assert_allclose(x, expected, rtol=1e-10, atol=1e-10 * scale)


def test_memory():
    params = {"matrix": jnp.ones((200, 3, 130)), "vector": jnp.ones(200)}
    state = eqxopt.Adafactor().init(params).state
    assert state["matrix"].row.shape == (3, 130)
    assert state["matrix"].col.shape == (200, 3)
    assert state["vector"].nu.shape == (200,)
    assert state["matrix"].mu is None and state["vector"].mu is None
