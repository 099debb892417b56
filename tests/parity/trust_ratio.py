"""LAMB, LARS and Fromage beside optax."""

import optax

import eqxopt

from .common import MASK, optax_rate, Pair, rate


RATIO_MASK = {"scalar": True, "layers": False, "kernel": True, "large": True}


PARITY: dict[str, list[Pair]] = {
    "Fromage": [
        (lambda: eqxopt.Fromage(0.1), lambda: optax.fromage(0.1)),
        (
            lambda: eqxopt.Fromage(rate(), min_norm=2.0),
            lambda: optax.fromage(optax_rate(), min_norm=2.0),
        ),
    ],
    "LAMB": [
        (lambda: eqxopt.LAMB(0.1), lambda: optax.lamb(0.1)),
        (
            lambda: eqxopt.LAMB(rate(), 0.8, 0.95, 1e-4, 1e-6, 0.1, MASK),
            lambda: optax.lamb(optax_rate(), 0.8, 0.95, 1e-4, 1e-6, 0.1, MASK),
        ),
    ],
    "LARS": [
        (lambda: eqxopt.LARS(0.1), lambda: optax.lars(0.1)),
        (
            lambda: eqxopt.LARS(rate(), 0.1, MASK, 0.1, 1e-2, RATIO_MASK, 0.8, True),
            lambda: optax.lars(
                optax_rate(), 0.1, MASK, 0.1, 1e-2, RATIO_MASK, 0.8, True
            ),
        ),
        (
            lambda: eqxopt.LARS(rate(), 0.1, trust_coefficient=0.1, momentum=0.5),
            lambda: optax.lars(optax_rate(), 0.1, trust_coefficient=0.1, momentum=0.5),
        ),
    ],
}
