"""Sophia beside optax. The loss is a sum over entries, and so its Hessian a diagonal:
every draw of signs estimates it without error."""

import optax

import eqxopt

from .common import MASK, optax_rate, Pair, rate


PARITY: dict[str, list[Pair]] = {
    "Sophia": [
        (lambda: eqxopt.Sophia(0.01), lambda: optax.contrib.sophia(0.01)),
        (
            lambda: eqxopt.Sophia(rate(), 0.8, 0.9, 1e-3, 0.1, MASK, 0.3, 0.5, 3),
            lambda: optax.contrib.sophia(
                optax_rate(), 0.8, 0.9, 1e-3, 0.1, MASK, 0.3, 0.5, 3
            ),
        ),
        (
            lambda: eqxopt.Sophia(0.01, eps=0.1, gamma=2.0, clip_threshold=None),
            lambda: optax.contrib.sophia(0.01, eps=0.1, gamma=2.0, clip_threshold=None),
        ),
    ],
}
