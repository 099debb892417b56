"""Optimistic Adam beside optax."""

import optax

import eqxopt

from .common import optax_rate, Pair, rate


OPTIONS = {"alpha": 0.7, "beta": 0.5, "b1": 0.8, "b2": 0.95, "eps": 1e-4}

PARITY: dict[str, list[Pair]] = {
    "OptimisticAdam": [
        (lambda: eqxopt.OptimisticAdam(0.1), lambda: optax.optimistic_adam_v2(0.1)),
        (
            lambda: eqxopt.OptimisticAdam(
                rate(), **OPTIONS, eps_root=1e-6, nesterov=False
            ),
            lambda: optax.optimistic_adam_v2(
                optax_rate(), **OPTIONS, eps_root=1e-6, nesterov=False
            ),
        ),
    ],
}
