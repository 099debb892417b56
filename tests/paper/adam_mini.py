"""Adam-mini of Zhang et al., 2024: Adam with the mean of the squares of each block."""

import numpy as np

import eqxopt

from .common import Pair


def adam_mini(x, gradients, partition, lr, b1, b2, eps, lam):
    """`partition` gives each entry the number of its block."""
    m = np.zeros_like(x)
    v = np.zeros(partition.max() + 1)
    for t, gradient in enumerate(gradients, 1):
        g = gradient(x)
        x = x - lr * lam * x
        m = b1 * m + (1 - b1) * g
        for b in range(len(v)):
            v[b] = b2 * v[b] + (1 - b2) * np.mean(g[partition == b] ** 2)
        m_hat, v_hat = m / (1 - b1**t), v / (1 - b2**t)
        x = x - lr * m_hat / (np.sqrt(v_hat[partition]) + eps)
        yield x


EACH = np.arange(24).reshape(6, 4)
PARTITIONS = {
    "row": EACH // 4,
    "tensor": 0 * EACH,
    "entry": EACH,
    3: EACH // 8,  # three heads of two outputs each
    12: EACH // 2,
}


def pair(blocks, *options):
    return Pair(
        lambda: eqxopt.AdamMini(*options, blocks=blocks),
        lambda x, grads: adam_mini(x, grads, PARTITIONS[blocks], *options),
        ((6, 4),),
    )


PAPER = {
    "AdamMini": [
        pair(blocks, *options)
        for blocks in PARTITIONS
        for options in [(0.01, 0.9, 0.999, 1e-8, 0.0), (0.02, 0.8, 0.9, 1e-3, 0.1)]
    ]
}
