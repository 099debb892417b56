"""Scion as in its authors' code."""

import numpy as np

import eqxopt

from .common import default_fallback, newton_schulz, noise, Pair


def scion(theta, gradients, rate, radius, momentum, eps, norm, constrained):
    rows, columns = theta.shape
    buffer = np.zeros_like(theta)
    for gradient in gradients:
        buffer = (1 - momentum) * buffer + momentum * gradient(theta)
        if norm == "sign":
            corner = np.sign(buffer) / columns
        else:
            corner = np.sqrt(rows / columns) * newton_schulz(buffer, eps)
        if constrained:
            theta = (1 - rate) * theta
        theta = theta - rate * radius * corner
        yield theta


def pair(*options):
    momentum, eps, norm, constrained = options

    def make():
        return eqxopt.Scion(
            0.05, 3.0, 1 - momentum, eps=eps, norm=norm, constrained=constrained
        )

    def paper(x, gradients):
        if x.ndim == 1:
            return default_fallback(x, gradients, 0.05)
        return scion(x, gradients, 0.05, 3.0, *options)

    return Pair(make, paper, ((5, 3), (3, 7), (3,)), noise)


PAPER = {
    "Scion": [
        pair(0.1, 1e-7, "spectral", True),
        pair(0.3, 1e-2, "spectral", False),
        pair(0.1, 1e-7, "sign", True),
        pair(0.3, 1e-7, "sign", False),
    ]
}
