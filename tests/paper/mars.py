"""MARS-AdamW of Yuan et al., 2024: Algorithm 2 with the last gradient as it was."""

import numpy as np

import eqxopt

from .common import Pair, waves


def mars(x, gradients, lr, b1, b2, gamma, eps, lam):
    m, v, last = np.zeros_like(x), np.zeros_like(x), np.zeros_like(x)
    for t, gradient in enumerate(gradients, 1):
        g = gradient(x)
        c = g + gamma * b1 / (1 - b1) * (g - last)
        if np.linalg.norm(c) > 1:
            c = c / np.linalg.norm(c)
        m = b1 * m + (1 - b1) * c
        v = b2 * v + (1 - b2) * c**2
        m_hat, v_hat = m / (1 - b1**t), v / (1 - b2**t)
        x = x - lr * (m_hat / (np.sqrt(v_hat) + eps) + lam * x)
        last = g
        yield x


def small_waves(rng, shape):
    """Too small to be rescaled."""
    return [lambda x, g=g: 0.01 * g(x) for g in waves(rng, shape)]


def pair(gradients, *options):
    return Pair(
        lambda: eqxopt.MARS(*options),
        lambda x, grads: mars(x, grads, *options),
        ((4, 3), (7,)),
        gradients,
    )


PAPER = {
    "MARS": [
        pair(gradients, *options)
        for gradients in (waves, small_waves)
        for options in [
            (3e-3, 0.95, 0.99, 0.025, 1e-8, 0.0),
            (0.02, 0.8, 0.9, 0.3, 1e-3, 0.1),
        ]
    ]
}
