"""SOAP as in its authors' code."""

import numpy as np

import eqxopt

from .common import flattened, KERNELS, noise, Pair, short_sides


def soap(theta, gradients, limit, rate, b1, b2, beta, eps, decay, frequency):
    """A side longer than `limit` is not rotated. The first step only gathers."""
    beta = b2 if beta is None else beta
    rotated = short_sides(theta, limit)
    g = gradients[0](theta)
    m, v = np.zeros_like(g), np.zeros_like(g)
    factors = [(1 - beta) * g @ g.T, (1 - beta) * g.T @ g]
    q = [
        np.linalg.eigh(f)[1][:, ::-1] if rotated[k] else np.eye(len(f))
        for k, f in enumerate(factors)
    ]
    yield theta
    for t, gradient in enumerate(gradients[1:], 1):
        g = gradient(theta)
        left, right = q
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * (left.T @ g @ right) ** 2
        scaled = left.T @ m @ right / (np.sqrt(v) + eps)
        size = np.sqrt(1 - b2**t) / (1 - b1**t)
        step = size * (left @ scaled @ right.T)
        theta = theta - rate * step - rate * decay * theta
        for k, outer in enumerate((g @ g.T, g.T @ g)):
            factors[k] = beta * factors[k] + (1 - beta) * outer
        if t % frequency == 0:
            for k in range(2):
                if rotated[k]:
                    values = np.diag(q[k].T @ factors[k] @ q[k])
                    order = np.argsort(-values)
                    v = np.take(v, order, axis=k)
                    q[k] = np.linalg.qr(factors[k] @ q[k][:, order])[0]
        yield theta


def pair(options, limit):
    return Pair(
        lambda: eqxopt.SOAP(0.05, *options[:5], None, *options[5:], limit),
        flattened(lambda x, grads: soap(x, grads, limit, 0.05, *options)),
        KERNELS,
        noise,
    )


PAPER = {
    "SOAP": [
        pair((0.95, 0.95, None, 1e-8, 0.01, 10), 10000),
        pair((0.8, 0.9, 0.7, 1e-2, 0.3, 1), 4),
        pair((0.9, 0.99, 0.9, 1e-4, 0.0, 3), 1),
    ]
}
