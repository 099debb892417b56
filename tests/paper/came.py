"""CAME of Luo et al., 2023: Algorithm 2 for matrices, and what its code does with
vectors."""

import numpy as np

import eqxopt

from .common import Pair, rms


def came(x, gradients, *options):
    is_matrix = x.ndim == 2 and min(x.shape) > 1
    return (matrix if is_matrix else vector)(x, gradients, *options)


def matrix(x, gradients, lr, b1, b2, b3, eps1, eps2, d, lam):
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
        yield x


def vector(x, gradients, lr, b1, b2, b3, eps1, eps2, d, lam):
    mean, v = np.zeros_like(x), np.zeros_like(x)
    for gradient in gradients:
        g = gradient(x)
        v = b2 * v + (1 - b2) * (g**2 + eps1)
        u = g / np.sqrt(v)
        mean = b1 * mean + (1 - b1) * u / max(1, rms(u) / d)
        x = x - lr * mean - lr * lam * x
        yield x


def pair(*options):
    return Pair(
        lambda: eqxopt.CAME(*options),
        lambda x, grads: came(x, grads, *options),
        ((3, 5), (5, 3), (4, 4), (7,), (3, 1)),
    )


PAPER = {
    "CAME": [
        pair(2e-4, 0.9, 0.999, 0.9999, 1e-30, 1e-16, 1.0, 0.0),
        pair(0.01, 0.8, 0.9, 0.95, 1e-3, 1e-4, 0.5, 0.1),
    ]
}
