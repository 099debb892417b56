"""NorMuon as in its authors' code and as in the paper."""

import numpy as np

import eqxopt

from .common import default_fallback, newton_schulz, Pair


def normuon(theta, gradients, rate, mu, beta2, eps, decay, rms, nesterov):
    m, v = np.zeros_like(theta), np.zeros(len(theta))
    rows, columns = theta.shape
    for t, gradient in enumerate(gradients, 1):
        g = gradient(theta)
        m = mu * m + (1 - mu) * g
        mean = m / (1 - mu**t)
        if nesterov:
            mean = mu * m / (1 - mu ** (t + 1)) + (1 - mu) * g / (1 - mu**t)
        o = newton_schulz(mean, eps)
        v = beta2 * v + (1 - beta2) * np.mean(o**2, axis=1)
        scaled = o / (np.sqrt(v) + eps)[:, None]
        if rms is None:
            size = max(1, rows / columns) ** 0.5 * np.linalg.norm(o)
        else:
            size = rms * np.sqrt(rows * columns)
        scaled *= size / np.linalg.norm(scaled)
        theta = theta - rate * (scaled + decay * theta)
        yield theta


def pair(*options):
    mu, beta2, eps, decay, rms, nesterov = options

    def make():
        return eqxopt.NorMuon(
            0.05,
            mu,
            beta2,
            eps=eps,
            weight_decay=decay,
            consistent_rms=rms,
            nesterov=nesterov,
        )

    def paper(x, gradients):
        if x.ndim == 1:
            share = 0.015 if rms is None else 1.0
            return default_fallback(x, gradients, share * 0.05)
        return normuon(x, gradients, 0.05, *options)

    return Pair(make, paper, ((5, 3), (3, 7), (3,)))


PAPER = {
    "NorMuon": [
        pair(0.95, 0.95, 1e-8, 0.01, None, False),
        pair(0.8, 0.5, 1e-2, 0.3, 0.2, True),
    ]
}
