"""RAdam as in Algorithm 2 of Liu et al., 2020, which has no epsilon and a threshold
of 4."""

import numpy as np

import eqxopt

from .common import noise, Pair


def radam(theta, gradients, alpha, beta1, beta2):
    m = np.zeros_like(theta)
    v = np.zeros_like(theta)
    rho_inf = 2 / (1 - beta2) - 1
    for t, gradient in enumerate(gradients, 1):
        g = gradient(theta)
        v = beta2 * v + (1 - beta2) * g**2
        m = beta1 * m + (1 - beta1) * g
        m_hat = m / (1 - beta1**t)
        rho = rho_inf - 2 * t * beta2**t / (1 - beta2**t)
        if rho > 4:
            adaptive = np.sqrt((1 - beta2**t) / v)
            numerator = (rho - 4) * (rho - 2) * rho_inf
            r = np.sqrt(numerator / ((rho_inf - 4) * (rho_inf - 2) * rho))
            theta = theta - alpha * r * m_hat * adaptive
        else:
            theta = theta - alpha * m_hat
        yield theta


def pair(beta2):
    return Pair(
        lambda: eqxopt.RAdam(0.1, 0.8, beta2, eps=0.0, threshold=4.0),
        lambda x, grads: radam(x, grads, 0.1, 0.8, beta2),
        gradients=noise,
    )


# Up to 0.6 the average is never long enough, above from the fifth step on.
PAPER = {"RAdam": [pair(beta2) for beta2 in (0.0, 0.6, 0.8, 0.99, 0.999)]}
