"""Yogi beside optax."""

import optax

import eqxopt

from .common import optax_rate, Pair, rate


PARITY: dict[str, list[Pair]] = {
    "Yogi": [
        (lambda: eqxopt.Yogi(0.1), lambda: optax.yogi(0.1)),
        (
            lambda: eqxopt.Yogi(rate(), 0.8, 0.7, 1e-4),
            lambda: optax.yogi(optax_rate(), 0.8, 0.7, 1e-4),
        ),
    ],
}
