"""RAdam beside optax."""

import optax

import eqxopt

from .common import optax_rate, Pair, rate


PARITY: dict[str, list[Pair]] = {
    "RAdam": [
        # First, as the pair that is compared in float32, where optax loses most digits
        # of the average's length for the default b2.
        (lambda: eqxopt.RAdam(0.1, b2=0.9), lambda: optax.radam(0.1, b2=0.9)),
        (lambda: eqxopt.RAdam(0.1), lambda: optax.radam(0.1)),
        (
            lambda: eqxopt.RAdam(rate(), 0.8, 0.95, 1e-4, 1e-6, 4.5, nesterov=True),
            lambda: optax.radam(
                optax_rate(), 0.8, 0.95, 1e-4, 1e-6, 4.5, nesterov=True
            ),
        ),
        # The average is never long enough.
        (lambda: eqxopt.RAdam(0.1, b2=0.6), lambda: optax.radam(0.1, b2=0.6)),
    ],
}
