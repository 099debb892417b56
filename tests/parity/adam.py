"""Adam and AdamW beside optax."""

import optax

import eqxopt

from .common import MASK, optax_rate, Pair, rate


PARITY: dict[str, list[Pair]] = {
    "Adam": [
        (lambda: eqxopt.Adam(0.1), lambda: optax.adam(0.1)),
        (
            lambda: eqxopt.Adam(rate(), 0.8, 0.95, 1e-4, 1e-6, nesterov=True),
            lambda: optax.adam(optax_rate(), 0.8, 0.95, 1e-4, 1e-6, nesterov=True),
        ),
    ],
    "AdamW": [
        (lambda: eqxopt.AdamW(0.1), lambda: optax.adamw(0.1)),
        (
            lambda: eqxopt.AdamW(rate(), 0.8, weight_decay=0.1, mask=MASK),
            lambda: optax.adamw(optax_rate(), 0.8, weight_decay=0.1, mask=MASK),
        ),
        (
            lambda: eqxopt.AdamW(0.1, nesterov=True, eps_root=1e-3),
            lambda: optax.adamw(0.1, nesterov=True, eps_root=1e-3),
        ),
    ],
}
