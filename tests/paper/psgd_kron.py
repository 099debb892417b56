"""PSGD with Kronecker factors as in distributed-kron. It never balances the factors:
that changes nothing."""

import jax
import numpy as np

import eqxopt
from eqxopt._fields.keys import own_keys

from .common import Pair


SHAPES = ((5, 4), (4, 3, 2), (7,), ())


def norm_lower_bound(a):
    largest = np.max(np.abs(a))
    a = a / largest
    i = np.argmax(np.sum(a * a, axis=0))
    x = a[:, i] @ a
    return largest * np.linalg.norm((x / np.linalg.norm(x)) @ a.T)


def stepped(q, term1, term2, eta):
    if q.ndim == 1:
        below = np.max(np.abs(np.diag(term1 + term2)))
        return q - eta / below * np.diag(term1 - term2) * q
    return q - eta / norm_lower_bound(term1 + term2) * np.triu(term1 - term2) @ q


def full(q):
    return np.diag(q) if q.ndim == 1 else q


def matrix_shape(shape):
    """A vector is a column. It has one factor, and 1 as the other."""
    rows = shape[0] if shape else 1
    return rows, int(np.prod(shape)) // rows


def factors(shape, longest, scale):
    """A side longer than `longest` has a diagonal factor, as has a vector."""
    rows, columns = matrix_shape(shape)
    if len(shape) < 2:
        return scale * np.ones(rows), np.ones(1)
    return [
        scale**0.5 * (np.eye(n) if n <= longest else np.ones(n))
        for n in (rows, columns)
    ]


def kron(x, gradients, noises, longest, probability, lr, b1, lam, eta, scale):
    """`noises` are the random matrices that ours has drawn."""
    shape = x.shape
    left, right = factors(shape, longest, scale)
    x = x.reshape(matrix_shape(shape))
    mean, waited = np.zeros_like(x), 0
    for t, (gradient, v) in enumerate(zip(gradients, noises), 1):
        mean = b1 * mean + (1 - b1) * gradient(x.reshape(shape)).reshape(x.shape)
        m_hat = mean / (1 - b1**t)
        waited += 1
        if waited >= 1 / probability(t):
            waited = 0
            damping = np.sqrt(np.finfo(np.float32).eps) * np.mean(np.abs(m_hat))
            ql, qr = full(left), full(right)
            a = ql @ (m_hat + damping * v) @ qr.T
            b = np.linalg.inv(ql).T @ v @ np.linalg.inv(qr)
            left = stepped(left, a @ a.T, b @ b.T, eta)
            if x.shape[1] > 1:
                right = stepped(right, a.T @ a, b.T @ b, eta)
        ql, qr = full(left), full(right)
        u = ql.T @ ql @ m_hat @ qr.T @ qr
        u = u / max(1, np.sqrt(np.mean(u**2)) / 1.1)
        x = x - lr * (u + lam * x)
        yield x.reshape(shape)


def default_probability(n):
    return np.clip(np.exp(-0.001 * (n - 500)), 0.03, 1)


def pair(shapes, longest, options, probability, lr, b1, lam, eta, scale):
    numbers = (
        {}
        if probability is default_probability
        else {
            "preconditioner_update_probability": probability(0),
            "preconditioner_lr": eta,
            "preconditioner_init_scale": scale,
        }
    )

    def drawn(before, after):
        keys = own_keys(before, before.count, len(shapes))
        return [
            jax.random.normal(
                jax.random.wrap_key_data(key["seed"]), matrix_shape(shape), float
            )
            for key, shape in zip(keys, shapes, strict=True)
        ]

    def paper(x, gradients, noises):
        return kron(x, gradients, noises, longest, probability, lr, b1, lam, eta, scale)

    make = lambda: eqxopt.PSGDKron(lr, b1, lam, seed=3, **options, **numbers)
    return Pair(make, paper, shapes, drawn=drawn)


PAPER = {
    "PSGDKron": [
        pair(shapes, longest, options, *numbers)
        for numbers in [
            (default_probability, 3e-4, 0.9, 0.0, 0.1, 1.0),
            (lambda n: 0.4, 0.02, 0.8, 0.1, 0.3, 0.5),
        ]
        for shapes, longest, options in [
            (SHAPES, 10000, {}),
            (((5, 4),), 4, {"max_size_triangular": 4}),
            (((5, 4),), 0, {"matrices": False}),
        ]
    ]
}
