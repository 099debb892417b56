"""Adan as in Algorithm 1 of the paper, with its code's bias corrections."""

import numpy as np

import eqxopt

from .common import Pair


def adan(theta, gradients, eta, *options):
    *betas, eps, eps_root, lam = options
    # The paper's betas say how much is averaged in, and ours how much is kept.
    beta1, beta2, beta3 = (1 - b for b in betas)
    m, v, n = np.zeros_like(theta), np.zeros_like(theta), np.zeros_like(theta)
    previous = gradients[0](theta)
    for k, gradient in enumerate(gradients, 1):
        g = gradient(theta)
        m = (1 - beta1) * m + beta1 * g
        v = (1 - beta2) * v + beta2 * (g - previous)
        n = (1 - beta3) * n + beta3 * (g + (1 - beta2) * (g - previous)) ** 2
        m_hat = m / (1 - (1 - beta1) ** k)
        v_hat = v / (1 - (1 - beta2) ** k)
        n_hat = n / (1 - (1 - beta3) ** k)
        eta_k = eta / (np.sqrt(n_hat + eps_root) + eps)
        theta = (theta - eta_k * (m_hat + (1 - beta2) * v_hat)) / (1 + lam * eta)
        previous = g
        yield theta


def pair(*options):
    return Pair(
        lambda: eqxopt.Adan(*options), lambda x, grads: adan(x, grads, *options)
    )


PAPER = {
    "Adan": [
        pair(0.05, 0.98, 0.92, 0.99, 1e-8, 0.0, 0.0),
        pair(0.05, 0.8, 0.7, 0.9, 1e-3, 1e-4, 0.5),
    ]
}
