"""NAdam and NAdamW beside optax."""

import optax

import eqxopt

from .common import MASK, optax_rate, Pair, rate


PARITY: dict[str, list[Pair]] = {
    "NAdam": [
        (lambda: eqxopt.NAdam(0.1), lambda: optax.nadam(0.1)),
        (
            lambda: eqxopt.NAdam(rate(), 0.8, 0.95, 1e-4, 1e-6),
            lambda: optax.nadam(optax_rate(), 0.8, 0.95, 1e-4, 1e-6),
        ),
        (
            lambda: eqxopt.NAdam(0.1, nesterov=False),
            lambda: optax.nadam(0.1, nesterov=False),
        ),
    ],
    "NAdamW": [
        (lambda: eqxopt.NAdamW(0.1), lambda: optax.nadamw(0.1)),
        (
            lambda: eqxopt.NAdamW(rate(), 0.8, 0.95, weight_decay=0.1, mask=MASK),
            lambda: optax.nadamw(optax_rate(), 0.8, 0.95, weight_decay=0.1, mask=MASK),
        ),
        (
            lambda: eqxopt.NAdamW(0.1, eps=1e-4, eps_root=1e-3, nesterov=False),
            lambda: optax.nadamw(0.1, eps=1e-4, eps_root=1e-3, nesterov=False),
        ),
    ],
}
