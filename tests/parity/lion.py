"""Lion beside optax."""

import optax

import eqxopt

from .common import MASK, optax_rate, Pair, rate


PARITY: dict[str, list[Pair]] = {
    "Lion": [
        (lambda: eqxopt.Lion(0.01), lambda: optax.lion(0.01)),
        # The step looks further back than the momentum, or just as far.
        (lambda: eqxopt.Lion(0.01, 0.95, 0.5), lambda: optax.lion(0.01, 0.95, 0.5)),
        (lambda: eqxopt.Lion(0.01, 0.9, 0.9), lambda: optax.lion(0.01, 0.9, 0.9)),
        (
            lambda: eqxopt.Lion(rate(), 0.8, 0.95, weight_decay=0.1, mask=MASK),
            lambda: optax.lion(optax_rate(), 0.8, 0.95, weight_decay=0.1, mask=MASK),
        ),
    ],
}
