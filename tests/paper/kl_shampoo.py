"""KL-Shampoo as in its authors' code."""

import numpy as np

import eqxopt

from .common import adam, flattened, KERNELS, noise, Pair, short_sides


def kl_shampoo(theta, gradients, limit, rate, b1, b2, eps, decay, init, frequency):
    """A side longer than `limit` is not rotated. The first step only gathers."""
    rows, columns = theta.shape
    rotated = short_sides(theta, limit)
    g = gradients[0](theta)
    m = np.zeros_like(g)
    s = [(1 - b2) * g @ g.T / columns, (1 - b2) * g.T @ g / rows]
    q = [np.linalg.eigh(x)[1][:, ::-1] for x in s]
    root = [np.full(n, init**-0.5) for n in theta.shape]
    for k in range(2):
        if not rotated[k]:
            q[k], root[k] = np.eye(theta.shape[k]), np.ones(theta.shape[k])
    yield theta
    for t, gradient in enumerate(gradients[1:], 1):
        g = gradient(theta)
        m = b1 * m + (1 - b1) * g
        scale = np.outer(*root)
        scale = scale / (1 + eps * scale)
        left, right = q
        step = left @ (left.T @ m @ right * scale) @ right.T
        theta = theta - rate * step - rate * decay * theta
        inverses = [q @ np.diag(r**2) @ q.T for q, r in zip(q, root)]
        s[0] = b2 * s[0] + (1 - b2) * g @ inverses[1] @ g.T / columns
        s[1] = b2 * s[1] + (1 - b2) * g.T @ inverses[0] @ g / rows
        both = left.T @ g @ right
        diagonals = [
            np.mean((both * root[1]) ** 2, axis=1),
            np.mean((both * root[0][:, None]) ** 2, axis=0),
        ]
        for k in range(2):
            if rotated[k]:
                values = b2 * root[k] ** -2.0 + (1 - b2) * diagonals[k]
                largest = max(10, min(g.shape[k], 4000))
                root[k] = np.minimum(values**-0.5, largest)
                if t % frequency == 0:
                    q[k] = np.linalg.qr(s[k] @ q[k])[0]
        yield theta


def pair(options, limit):
    def make():
        return eqxopt.KLShampoo(
            0.05, *options[:4], None, *options[4:], limit, fallback=eqxopt.Adam(0.01)
        )

    def paper(x, gradients):
        if x.ndim == 1:
            return adam(x, gradients, 0.01, 0.9, 0.999, 1e-8)
        run = lambda x, gradients: kl_shampoo(x, gradients, limit, 0.05, *options)
        return flattened(run)(x, gradients)

    return Pair(make, paper, (*KERNELS, (4,)), noise)


PAPER = {
    "KLShampoo": [
        pair((0.9, 0.98, 1e-8, 0.01, 0.1, 10), 10000),
        pair((0.8, 0.7, 1e-1, 0.3, 1e-4, 1), 4),
        pair((0.5, 0.9, 1e-3, 0.0, 2.0, 3), 1),
    ]
}
