"""LAMB as in Algorithm 2 of the paper."""

import numpy as np

import eqxopt

from .common import LAYERS, Pair


def lamb(x, gradients, eta, beta1, beta2, eps, lam):
    m, v = np.zeros_like(x), np.zeros_like(x)
    for t, gradient in enumerate(gradients, 1):
        g = gradient(x)
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        r = (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)
        phi = np.linalg.norm(x.ravel())
        x = x - eta * phi / np.linalg.norm((r + lam * x).ravel()) * (r + lam * x)
        yield x


PAPER = {
    "LAMB": [
        Pair(
            lambda: eqxopt.LAMB(0.05, 0.8, 0.95, 1e-3, weight_decay=0.1),
            lambda x, grads: lamb(x, grads, 0.05, 0.8, 0.95, 1e-3, 0.1),
            LAYERS,
        )
    ]
}
