"""Rprop beside optax."""

import optax

import eqxopt

from .common import Pair


PARITY: dict[str, list[Pair]] = {
    "Rprop": [
        (lambda: eqxopt.Rprop(0.1), lambda: optax.rprop(0.1)),
        (
            lambda: eqxopt.Rprop(0.02, 0.4, 1.5, 0.01, 0.3),
            lambda: optax.rprop(0.02, 0.4, 1.5, 0.01, 0.3),
        ),
    ],
}
