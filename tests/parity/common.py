"""Options that the pairs share."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax

import eqxopt


# Both are made inside the test, in its precision.
Pair = tuple[Callable[[], eqxopt.AbstractOptimizer], Callable[[], Any]]

MASK = {"scalar": False, "layers": True, "kernel": False, "large": True}


def rate() -> eqxopt.schedules.AbstractSchedule:
    return eqxopt.schedules.WarmupCosineDecay(0.0, 0.1, 5, 18, 0.01, 2.0)


def optax_rate():
    schedule = optax.warmup_cosine_decay_schedule(0.0, 0.1, 5, 18, 0.01, 2.0)
    # optax evaluates it in float32, whatever the parameters are, if the step is int32.
    return lambda step: schedule(jnp.asarray(step, float))
