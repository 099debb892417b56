"""Schedule-free SGD and AdamW beside optax."""

import optax.contrib

import eqxopt

from .common import Pair


# Optax evaluates the warm-up in float32, in which 1/8 and its quarters are exact.
PARITY: dict[str, list[Pair]] = {
    "ScheduleFreeAdamW": [
        (
            lambda: eqxopt.ScheduleFreeAdamW(),
            lambda: optax.contrib.schedule_free_adamw(),
        ),
        (
            lambda: eqxopt.ScheduleFreeAdamW(0.125, 4, 0.8, 0.95, 1e-4, 0.1, 1.5),
            lambda: optax.contrib.schedule_free_adamw(
                0.125, 4, 0.8, 0.95, 1e-4, 0.1, 1.5
            ),
        ),
    ],
    "ScheduleFreeSGD": [
        (
            lambda: eqxopt.ScheduleFreeSGD(0.01),
            lambda: optax.contrib.schedule_free_sgd(0.01),
        ),
        (
            lambda: eqxopt.ScheduleFreeSGD(0.125, 4, 0.8, 0.1, 0.0),
            lambda: optax.contrib.schedule_free_sgd(0.125, 4, 0.8, 0.1, 0.0),
        ),
    ],
}
