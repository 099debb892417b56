"""Simplified AdEMAMix beside optax."""

from optax import contrib

import eqxopt

from .common import MASK, optax_rate, Pair, rate


PARITY: dict[str, list[Pair]] = {
    "SimplifiedAdEMAMix": [
        (
            lambda: eqxopt.SimplifiedAdEMAMix(0.1),
            lambda: contrib.simplified_ademamix(0.1),
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
