"""SM3-II of Anil et al., 2019: an explicit cover, entry by entry."""

import itertools

import numpy as np

import eqxopt

from .common import Pair, waves


def slices(shape):
    """The cover: for each axis and each index along it, the entries with that index;
    for a scalar, its one entry."""
    entries = list(itertools.product(*(range(n) for n in shape)))
    if not shape:
        return [entries]
    return [
        [i for i in entries if i[axis] == k]
        for axis, n in enumerate(shape)
        for k in range(n)
    ]


def sm3(w, gradients, eta, beta):
    cover = slices(w.shape)
    mu = [0.0] * len(cover)
    momentum = np.zeros_like(w)
    for gradient in gradients:
        g = gradient(w)
        nu = np.zeros_like(w)
        mu_next = [0.0] * len(cover)
        scaled = np.zeros_like(w)
        for i in np.ndindex(w.shape):
            nu[i] = min(mu[r] for r, s in enumerate(cover) if i in s) + g[i] ** 2
            scaled[i] = g[i] / np.sqrt(nu[i]) if nu[i] > 0 else 0.0
            for r, s in enumerate(cover):
                if i in s:
                    mu_next[r] = max(mu_next[r], nu[i])
        mu = mu_next
        momentum = beta * momentum + (1 - beta) * scaled
        w = w - eta * momentum
        yield w


def with_zeros(rng, shape):
    """Some entries are 0 in every step, and all are in the fourth: 0 / 0 is 0."""
    frozen = rng.random(shape) < 0.2
    gradients = [lambda w, g=g: np.where(frozen, 0.0, g(w)) for g in waves(rng, shape)]
    gradients[3] = np.zeros_like
    return gradients


def pair(momentum):
    return Pair(
        lambda: eqxopt.SM3(0.1, momentum, eps=0.0),
        lambda x, grads: sm3(x, grads, 0.1, momentum or 0.0),
        ((), (4,), (3, 4), (2, 3, 4)),
        with_zeros,
    )


PAPER = {"SM3": [pair(None), pair(0.9)]}
