"""Adagrad and its descendants that keep a square for each entry, beside optax."""

import optax

import eqxopt

from .common import MASK, optax_rate, Pair, rate


PARITY: dict[str, list[Pair]] = {
    "Adagrad": [
        (lambda: eqxopt.Adagrad(0.1), lambda: optax.adagrad(0.1)),
        (
            lambda: eqxopt.Adagrad(rate(), 0.0, 1e-3),
            lambda: optax.adagrad(optax_rate(), 0.0, 1e-3),
        ),
    ],
    "Adadelta": [
        # Without a rate optax does not flip the sign: it ascends.
        (
            lambda: eqxopt.Adadelta(),
            lambda: optax.chain(optax.adadelta(), optax.scale(-1)),
        ),
        (
            lambda: eqxopt.Adadelta(rate(), 0.8, 1e-3, 0.1, MASK),
            lambda: optax.adadelta(optax_rate(), 0.8, 1e-3, 0.1, MASK),
        ),
    ],
    "RMSProp": [
        (lambda: eqxopt.RMSProp(0.01), lambda: optax.rmsprop(0.01)),
        (
            lambda: eqxopt.RMSProp(rate(), 0.8, 1e-4, 1.0, momentum=0.7),
            lambda: optax.rmsprop(optax_rate(), 0.8, 1e-4, 1.0, momentum=0.7),
        ),
        (
            lambda: eqxopt.RMSProp(0.1, 0.8, 1e-3, 0.5, True, 0.7, True),
            lambda: optax.rmsprop(
                0.1, 0.8, 1e-3, 0.5, centered=True, momentum=0.7, nesterov=True
            ),
        ),
        (
            lambda: eqxopt.RMSProp(0.1, eps_in_sqrt=False, bias_correction=True),
            lambda: optax.rmsprop(0.1, eps_in_sqrt=False, bias_correction=True),
        ),
        (
            lambda: eqxopt.RMSProp(0.1, 0.8, 0.1, centered=True, eps_in_sqrt=False),
            lambda: optax.rmsprop(0.1, 0.8, 0.1, centered=True, eps_in_sqrt=False),
        ),
        # In the first step the variance is 0 here, and there what the cancellation
        # leaves, which only a large eps drowns.
        (
            lambda: eqxopt.RMSProp(
                0.1, 0.8, 0.1, 0.5, centered=True, bias_correction=True
            ),
            lambda: optax.rmsprop(
                0.1, 0.8, 0.1, 0.5, centered=True, bias_correction=True
            ),
        ),
    ],
}
