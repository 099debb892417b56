"""Adafactor of Shazeer and Stern, 2018: Algorithm 4 for matrices, Algorithm 5 for
vectors, with the hyperparameters of Algorithm 6."""

import jax.numpy as jnp
import numpy as np

import eqxopt

from .common import Pair, rms


EPS1, EPS2, D = 1e-30, 1e-3, 1.0


def step_size(x, t):
    rho = min(1e-2, 1 / np.sqrt(t))
    return max(EPS2, rms(x)) * rho


def adafactor(x, gradients):
    return (matrix if x.ndim == 2 else vector)(x, gradients)


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
        yield x


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
        yield x


def rate(step):
    return jnp.minimum(1e-2, (step.astype(float) + 1.0) ** -0.5)


PAPER = {
    "Adafactor": [
        Pair(
            lambda: eqxopt.Adafactor(rate, min_dim_size_to_factor=3),
            adafactor,
            ((3, 5), (5, 3), (4, 4), (7,)),
            start=start,
        )
        for start in (1.0, 1e-5)
    ]
}
