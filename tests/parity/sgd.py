"""SGD beside optax."""

import optax

import eqxopt

from .common import optax_rate, Pair, rate


PARITY: dict[str, list[Pair]] = {
    "SGD": [
        (lambda: eqxopt.SGD(0.1), lambda: optax.sgd(0.1)),
        (lambda: eqxopt.SGD(rate(), 0.8), lambda: optax.sgd(optax_rate(), 0.8)),
        (lambda: eqxopt.SGD(0.1, 0.8, True), lambda: optax.sgd(0.1, 0.8, True)),
    ],
}
