"""LaProp as in the paper, with its code's learning rate under the mean, in NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

import eqxopt


def gradient(x, step):
    return np.sin(x * (1 + 0.1 * step)) + 0.2 * x


def laprop(theta, rates, mu, nu, eps, lam):
    m, n = np.zeros_like(theta), np.zeros_like(theta)
    mean_rate = 0.0
    for t, rate in enumerate(rates, start=1):
        g = gradient(theta, t)
        n = nu * n + (1 - nu) * g**2
        c_n = 1 - nu**t
        m = mu * m + (1 - mu) * rate * g / (np.sqrt(n / c_n) + eps)
        mean_rate = mu * mean_rate + (1 - mu) * rate
        c_m = mean_rate / rate
        theta = theta - m / c_m - rate * lam * theta
    return theta


@pytest.mark.parametrize("moving", [False, True])
@pytest.mark.parametrize("options", [(0.9, 0.999, 1e-15, 0.0), (0.8, 0.5, 0.1, 0.3)])
def test_paper(moving, options, x64):
    b1, b2, eps, lam = options
    schedule = eqxopt.schedules.Linear(0.05, 0.01, 20)
    rates = [float(schedule(t)) if moving else 0.05 for t in range(25)]
    theta = np.random.default_rng(0).normal(size=(4, 3))
    x = jnp.asarray(theta)
    rate = schedule if moving else 0.05
    opt = eqxopt.LaProp(rate, b1, b2, eps, weight_decay=lam).init(x)
    for t in range(1, 26):
        x, opt = opt.apply(jnp.asarray(gradient(np.asarray(x), t)), x)
    np.testing.assert_allclose(x, laprop(theta, rates, *options), rtol=1e-10)


def test_constant_rate_is_the_paper_alone(x64):
    """There the mean of the rates only corrects the bias."""
    x = jnp.asarray([1.0, -2.0])
    opt = eqxopt.LaProp(0.05, 0.9, 0.9).init(x)
    theta, m, n = np.asarray(x), 0.0, 0.0
    for t in range(1, 26):
        g = gradient(theta, t)
        n = 0.9 * n + 0.1 * g**2
        m = 0.9 * m + 0.1 * g / (np.sqrt(n / (1 - 0.9**t)) + 1e-15)
        theta = theta - 0.05 * m / (1 - 0.9**t)
        x, opt = opt.apply(jnp.asarray(gradient(np.asarray(x), t)), x)
    np.testing.assert_allclose(x, theta, rtol=1e-10)


def test_rate_of_zero_moves_nothing():
    x = jnp.ones(3)
    opt = eqxopt.LaProp(0.0, weight_decay=0.1).init(x)
    new, opt = opt.apply(x, x)
    np.testing.assert_array_equal(new, x)
    new, opt = opt.replace(learning_rate=0.1).apply(x, x)
    np.testing.assert_allclose(new, 0.89, rtol=1e-6)


def test_mask(x64):
    x = {"w": jnp.ones(3), "b": jnp.ones(3)}
    opt = eqxopt.LaProp(0.1, weight_decay=0.5, mask={"w": True, "b": False}).init(x)
    zeros = {"w": jnp.zeros(3), "b": jnp.zeros(3)}
    x, opt = opt.apply(zeros, x)
    np.testing.assert_allclose(x["w"], 0.95, rtol=1e-14)
    np.testing.assert_array_equal(x["b"], 1.0)
