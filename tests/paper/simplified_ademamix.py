"""Simplified AdEMAMix by the formulas of the paper."""

import numpy as np

import eqxopt

from .common import Pair


def simplified_ademamix(x, gradients, eta, beta1, beta2, alpha, eps, lam):
    m, nu = np.zeros_like(x), np.zeros_like(x)
    for t, gradient in enumerate(gradients, 1):
        g = gradient(x)
        m = beta1 * m + g
        nu = beta2 * nu + (1 - beta2) * g**2
        denominator = np.sqrt(nu / (1 - beta2**t)) + eps
        x = x - eta * ((m + alpha * g) / denominator + lam * x)
        yield x


def biased_adam(x, gradients, eta, beta1, beta2, eps):
    """Adam without correcting the bias of the first moment."""
    m, nu = np.zeros_like(x), np.zeros_like(x)
    for t, gradient in enumerate(gradients, 1):
        g = gradient(x)
        m = beta1 * m + (1 - beta1) * g
        nu = beta2 * nu + (1 - beta2) * g**2
        x = x - eta * m / (np.sqrt(nu / (1 - beta2**t)) + eps)
        yield x


PAPER = {
    "SimplifiedAdEMAMix": [
        Pair(
            lambda: eqxopt.SimplifiedAdEMAMix(
                0.01, 0.9, 0.95, 3.0, 1e-3, weight_decay=0.1
            ),
            lambda x, grads: simplified_ademamix(
                x, grads, 0.01, 0.9, 0.95, 3.0, 1e-3, 0.1
            ),
        ),
        # Without `alpha`, and with the rate divided by the length of the memory.
        Pair(
            lambda: eqxopt.SimplifiedAdEMAMix(0.01 * (1 - 0.9), 0.9, 0.95, eps=1e-3),
            lambda x, grads: biased_adam(x, grads, 0.01, 0.9, 0.95, 1e-3),
        ),
    ]
}
