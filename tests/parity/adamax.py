"""Adamax and AdamaxW beside optax."""

import optax

import eqxopt

from .common import MASK, optax_rate, Pair, rate


PARITY: dict[str, list[Pair]] = {
    "Adamax": [
        (lambda: eqxopt.Adamax(0.1), lambda: optax.adamax(0.1)),
        (
            lambda: eqxopt.Adamax(rate(), 0.8, 0.7, 1e-3),
            lambda: optax.adamax(optax_rate(), 0.8, 0.7, 1e-3),
        ),
    ],
    "AdamaxW": [
        (lambda: eqxopt.AdamaxW(0.1), lambda: optax.adamaxw(0.1)),
        (
            lambda: eqxopt.AdamaxW(rate(), 0.8, 0.7, 1e-3, 0.1, MASK),
            lambda: optax.adamaxw(optax_rate(), 0.8, 0.7, 1e-3, 0.1, MASK),
        ),
    ],
}
