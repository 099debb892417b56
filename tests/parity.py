"""Every optimizer beside its optax counterpart, with default and other options."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax

import eqxopt


Pair = tuple[Callable[[], eqxopt.AbstractOptimizer], Callable[[], Any]]

MASK = {"scalar": False, "layers": True, "kernel": False, "large": True}


def rate() -> eqxopt.schedules.AbstractSchedule:
    return eqxopt.schedules.WarmupCosineDecay(0.0, 0.1, 5, 18, 0.01, 2.0)


def optax_rate():
    schedule = optax.warmup_cosine_decay_schedule(0.0, 0.1, 5, 18, 0.01, 2.0)
    # optax evaluates it in float32, whatever the parameters are, if the step is int32.
    return lambda step: schedule(jnp.asarray(step, float))


# Made inside the test, in float64.
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
    "SGD": [
        (lambda: eqxopt.SGD(0.1), lambda: optax.sgd(0.1)),
        (lambda: eqxopt.SGD(rate(), 0.8), lambda: optax.sgd(optax_rate(), 0.8)),
        (lambda: eqxopt.SGD(0.1, 0.8, True), lambda: optax.sgd(0.1, 0.8, True)),
    ],
}
