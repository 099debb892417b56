"""SGD beside optax."""

import optax

import eqxopt

from .common import optax_rate, Pair, rate


PARITY: dict[str, list[Pair]] = {
    "PolyakSGD": [
        (lambda: eqxopt.PolyakSGD(), lambda: optax.polyak_sgd()),
        (
            lambda: eqxopt.PolyakSGD(0.05, rate(), 20.0, 0.1),
            lambda: optax.polyak_sgd(0.05, optax_rate(), 20.0, 0.1),
        ),
        (
            lambda: eqxopt.PolyakSGD(f_min=20.0, variant="sps+"),
            lambda: optax.polyak_sgd(f_min=20.0, variant="sps+"),
        ),
    ],
    "SGD": [
        (lambda: eqxopt.SGD(0.1), lambda: optax.sgd(0.1)),
        (lambda: eqxopt.SGD(rate(), 0.8), lambda: optax.sgd(optax_rate(), 0.8)),
        (lambda: eqxopt.SGD(0.1, 0.8, True), lambda: optax.sgd(0.1, 0.8, True)),
    ],
}
