"""GaLore of Zhao et al., 2024: Algorithm 2, with the longer side projected as in
optax."""

import numpy as np

import eqxopt

from .common import Pair


def galore(x, gradients, r, gap, lr, scale, lam, b1, b2, eps):
    n, m = x.shape
    r, left = min(r, n, m), n >= m
    mean, v = 0.0, 0.0
    for t, gradient in enumerate(gradients):
        g = gradient(x)
        if t % gap == 0:
            u, _, vh = np.linalg.svd(g, full_matrices=False)
            p, q = u[:, :r], vh[:r].T
        low = p.T @ g if left else g @ q
        mean = b1 * mean + (1 - b1) * low
        v = b2 * v + (1 - b2) * low**2
        m_hat, v_hat = mean / (1 - b1 ** (t + 1)), v / (1 - b2 ** (t + 1))
        d = m_hat / (np.sqrt(v_hat) + eps)
        x = x - lr * (scale * (p @ d if left else d @ q.T) + lam * x)
        yield x


def pair(rank, gap):
    lr, scale, lam, b1, b2, eps = options = 0.02, 0.5, 0.1, 0.8, 0.9, 1e-3
    return Pair(
        lambda: eqxopt.GaLore(lr, rank, gap, scale, lam, b1=b1, b2=b2, eps=eps),
        lambda x, grads: galore(x, grads, rank, gap, *options),
        ((6, 4), (4, 6), (5, 5)),
    )


PAPER = {"GaLore": [pair(rank, gap) for rank in (2, 100) for gap in (100, 7)]}
