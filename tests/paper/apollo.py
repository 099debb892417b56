"""APOLLO of Zhu et al., 2024: Algorithm 1 with the order of the authors' code."""

import jax.numpy as jnp
import numpy as np

import eqxopt
from eqxopt._matrices.apollo import projection

from .common import Pair


SHAPES = ((6, 4), (4, 6), (5, 5))


def norm(x, axis=None):
    return np.sqrt(np.sum(x**2, axis=axis, keepdims=True))


def apollo(x, gradients, draws, channel, gamma, lr, scale, lam, b1, b2, eps):
    """`draws` are the projections that ours has drawn."""
    mean, v, last = 0.0, 0.0, None
    for t, (gradient, p) in enumerate(zip(gradients, draws), 1):
        g = gradient(x)
        tall = g.shape[0] >= g.shape[1]
        low = g @ p.T if tall else p @ g
        mean = b1 * mean + (1 - b1) * low
        v = b2 * v + (1 - b2) * low**2
        normed = mean / (np.sqrt(v) + eps)
        axis = None if not channel else 1 if tall else 0
        scaled = g * norm(normed, axis) / (norm(low, axis) + 1e-8)
        size = np.linalg.norm(scaled)
        if last is not None and gamma is not None:
            limiter = max(size / (last + 1e-8), gamma) / gamma
            scaled, size = scaled / limiter, size / limiter
        last = size
        step = lr * np.sqrt(1 - b2**t) / (1 - b1**t)
        x = x - step * np.sqrt(scale) * scaled - lr * lam * x
        yield x


def pair(channel, rank, gamma):
    lr, scale, lam, b1, b2, eps = options = 0.02, 4.0, 0.1, 0.8, 0.9, 1e-3

    def make():
        return eqxopt.APOLLO(
            lr,
            rank,
            7,
            scale,
            lam,
            b1=b1,
            b2=b2,
            eps=eps,
            scale_type="channel" if channel else "tensor",
            max_growth=gamma,
            seed=3,
        )

    def drawn(before, after):
        likes = [jnp.zeros((1, *sorted(shape))) for shape in SHAPES]
        states = zip(after.state, likes, strict=True)
        return [projection(state.key, like, rank)[0] for state, like in states]

    def paper(x, gradients, draws):
        return apollo(x, gradients, draws, channel, gamma, *options)

    return Pair(make, paper, SHAPES, drawn=drawn)


PAPER = {"APOLLO": [pair(True, 2, 1.01), pair(False, 1, 1.1), pair(True, 2, None)]}
