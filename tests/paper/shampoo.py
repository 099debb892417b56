"""Shampoo with running means and Adam's lengths."""

import numpy as np

import eqxopt

from .common import adam, flattened, KERNELS, noise, Pair, short_sides


def power(factor, exponent):
    values, vectors = np.linalg.eigh(factor)
    return vectors @ np.diag(values**-exponent) @ vectors.T


def shampoo(
    theta, gradients, rate, b1, b2, eps, decay, exponent, frequency, limit, graft_eps
):
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    factors = [np.zeros((n, n)) for n in theta.shape]
    roots = [np.eye(n) for n in theta.shape]
    for t, gradient in enumerate(gradients, 1):
        g = gradient(theta)
        factors[0] = b2 * factors[0] + (1 - b2) * g @ g.T
        factors[1] = b2 * factors[1] + (1 - b2) * g.T @ g
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        if t % frequency == 0:
            for k, short in enumerate(short_sides(theta, limit)):
                if short:
                    whole = factors[k] / (1 - b2**t) + eps * np.eye(len(factors[k]))
                    roots[k] = power(whole, exponent)
        mean = m / (1 - b1**t)
        step = roots[0] @ mean @ roots[1]
        if graft_eps is not None:
            lengths = mean / (np.sqrt(v / (1 - b2**t)) + graft_eps)
            step = step * np.linalg.norm(lengths) / np.linalg.norm(step)
            step = lengths if t < frequency else step
        theta = theta - rate * (step + decay * theta)
        yield theta


def pair(options, frequency, limit, graft_eps):
    def make():
        return eqxopt.Shampoo(
            0.05,
            *options[:4],
            None,
            options[4],
            frequency,
            limit,
            grafting=graft_eps is not None,
            graft_eps=graft_eps or 0.0,
            fallback=eqxopt.Adam(0.01),
        )

    def paper(x, gradients):
        if x.ndim == 1:
            return adam(x, gradients, 0.01, 0.9, 0.999, 1e-8)
        run = lambda x, gradients: shampoo(
            x, gradients, 0.05, *options, frequency, limit, graft_eps
        )
        return flattened(run)(x, gradients)

    return Pair(make, paper, (*KERNELS, (4,)), noise)


PAPER = {
    "Shampoo": [
        pair((0.9, 0.999, 1e-12, 0.0, 0.25), 10, 10000, 1e-8),
        pair((0.8, 0.9, 1e-3, 0.3, 0.5), 1, 4, 1e-2),
        pair((0.5, 0.99, 1e-4, 0.1, 0.3), 3, 10000, None),
    ]
}
