"""StableAdamW as in Algorithm 2 of the paper."""

import numpy as np

import eqxopt

from .common import Pair, waves


def stable_adamw(theta, gradients, alpha, beta1, beta2, eps, lam, d):
    v, u = np.zeros_like(theta), np.zeros_like(theta)
    clipped = 0
    for t, gradient in enumerate(gradients, 1):
        g = gradient(theta)
        beta1_hat = beta1 * (1 - beta1 ** (t - 1)) / (1 - beta1**t)
        beta2_hat = beta2 * (1 - beta2 ** (t - 1)) / (1 - beta2**t)
        v = beta1_hat * v + (1 - beta1_hat) * g
        u = beta2_hat * u + (1 - beta2_hat) * g**2
        rms = np.sqrt(np.mean(g**2 / np.maximum(u, eps**2)))
        clipped += rms > d
        eta = alpha / max(1, rms / d)
        theta = theta - eta * lam * theta - eta * v / (np.sqrt(u) + eps)
        yield theta
    assert clipped > 2


def surprising(rng, shape):
    """Every seventh gradient is a surprise."""
    return [
        lambda x, g=g, t=t: (30.0 if t % 7 == 0 else 1.0) * g(x)
        for t, g in enumerate(waves(rng, shape), 1)
    ]


def pair(b1, b2, eps, lam, d):
    def make():
        return eqxopt.StableAdamW(
            0.05, b1, b2, eps, weight_decay=lam, clipping_threshold=d
        )

    return Pair(
        make,
        lambda x, grads: stable_adamw(x, grads, 0.05, b1, b2, eps, lam, d),
        ((3,), (4, 3), ()),
        surprising,
    )


PAPER = {
    "StableAdamW": [pair(0.9, 0.99, 1e-8, 0.2, 1.0), pair(0.8, 0.9, 1e-1, 0.5, 0.7)]
}
