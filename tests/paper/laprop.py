"""LaProp as in the paper, with its code's learning rate under the mean."""

import numpy as np

import eqxopt

from .common import Pair


def laprop(theta, gradients, rate, mu, nu, eps, lam):
    m, n = np.zeros_like(theta), np.zeros_like(theta)
    mean_rate = 0.0
    for t, gradient in enumerate(gradients, 1):
        g, eta = gradient(theta), rate(t - 1)
        n = nu * n + (1 - nu) * g**2
        c_n = 1 - nu**t
        m = mu * m + (1 - mu) * eta * g / (np.sqrt(n / c_n) + eps)
        mean_rate = mu * mean_rate + (1 - mu) * eta
        c_m = mean_rate / eta
        theta = theta - m / c_m - eta * lam * theta
        yield theta


def constant_rate(theta, gradients, rate, mu, nu, eps):
    """The paper alone: there the rate is not under the mean."""
    m, n = np.zeros_like(theta), np.zeros_like(theta)
    for t, gradient in enumerate(gradients, 1):
        g = gradient(theta)
        n = nu * n + (1 - nu) * g**2
        m = mu * m + (1 - mu) * g / (np.sqrt(n / (1 - nu**t)) + eps)
        theta = theta - rate * m / (1 - mu**t)
        yield theta


def falling(step):
    return 0.05 - 0.04 * min(step / 20, 1)


def pair(moving, b1, b2, eps, lam):
    rate = falling if moving else lambda step: 0.05

    def make():
        ours = eqxopt.schedules.Linear(0.05, 0.01, 20) if moving else 0.05
        return eqxopt.LaProp(ours, b1, b2, eps, weight_decay=lam)

    return Pair(make, lambda x, grads: laprop(x, grads, rate, b1, b2, eps, lam))


PAPER = {
    "LaProp": [
        *(
            pair(moving, *options)
            for moving in (False, True)
            for options in [(0.9, 0.999, 1e-15, 0.0), (0.8, 0.5, 0.1, 0.3)]
        ),
        Pair(
            lambda: eqxopt.LaProp(0.05, 0.9, 0.9),
            lambda x, grads: constant_rate(x, grads, 0.05, 0.9, 0.9, 1e-15),
        ),
    ]
}
