"""AdEMAMix and its simplified form beside optax."""

from optax import contrib

import eqxopt

from .common import MASK, optax_rate, Pair, rate


PARITY: dict[str, list[Pair]] = {
    "AdEMAMix": [
        (lambda: eqxopt.AdEMAMix(0.1), lambda: contrib.ademamix(0.1)),
        (
            lambda: eqxopt.AdEMAMix(
                rate(), 0.8, 0.95, 0.99, 3.0, 1e-4, 1e-6, None, 0.1, MASK
            ),
            lambda: contrib.ademamix(
                optax_rate(), 0.8, 0.95, 0.99, 3.0, 1e-4, 1e-6, None, 0.1, MASK
            ),
        ),
        (
            lambda: eqxopt.AdEMAMix(0.01, b3=rate() + 0.8, alpha=rate()),
            lambda: contrib.ademamix(
                0.01, b3=lambda step: optax_rate()(step) + 0.8, alpha=optax_rate()
            ),
        ),
    ],
    "SimplifiedAdEMAMix": [
        (
            lambda: eqxopt.SimplifiedAdEMAMix(1e-3),
            lambda: contrib.simplified_ademamix(1e-3),
        ),
        (
            lambda: eqxopt.SimplifiedAdEMAMix(
                rate(), 0.8, 0.9, 3.0, 1e-4, 1e-6, 0.1, MASK
            ),
            lambda: contrib.simplified_ademamix(
                optax_rate(), 0.8, 0.9, 3.0, 1e-4, 1e-6, 0.1, MASK
            ),
        ),
        (
            lambda: eqxopt.SimplifiedAdEMAMix(0.1, alpha=rate()),
            lambda: contrib.simplified_ademamix(0.1, alpha=optax_rate()),
        ),
    ],
}
