"""ACProp as in the paper, with its code's bias correction."""

import numpy as np

import eqxopt

from .common import Pair


def acprop(theta, gradients, alpha, beta1, beta2, eps, eps_root, lam):
    m, s = np.zeros_like(theta), np.zeros_like(theta)
    for t, gradient in enumerate(gradients, 1):
        g = gradient(theta)
        m = beta1 * m + (1 - beta1) * g
        s_hat = s / (1 - beta2 ** (t - 1)) if t > 1 else np.ones_like(s)
        theta = theta - alpha * (g / (np.sqrt(s_hat) + eps) + lam * theta)
        # The divisor is that of the step before: the variance is updated last.
        s = beta2 * s + (1 - beta2) * (g - m) ** 2 + eps_root
        yield theta


def pair(*options):
    return Pair(
        lambda: eqxopt.AcProp(*options), lambda x, grads: acprop(x, grads, *options)
    )


PAPER = {
    "AcProp": [
        pair(0.01, 0.9, 0.999, 1e-16, 1e-16, 0.0),
        pair(0.01, 0.7, 0.9, 1e-2, 1e-3, 0.3),
    ]
}
