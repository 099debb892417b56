"""SignSGD and Signum beside optax."""

import optax

import eqxopt

from .common import optax_rate, Pair, rate


PARITY: dict[str, list[Pair]] = {
    "SignSGD": [
        (lambda: eqxopt.SignSGD(0.01), lambda: optax.sign_sgd(0.01)),
        (lambda: eqxopt.SignSGD(rate()), lambda: optax.sign_sgd(optax_rate())),
    ],
    "Signum": [
        (lambda: eqxopt.Signum(0.01), lambda: optax.signum(0.01)),
        (lambda: eqxopt.Signum(rate(), 0.7), lambda: optax.signum(optax_rate(), 0.7)),
    ],
}
