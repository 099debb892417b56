"""ADOPT beside optax."""

import jax.numpy as jnp
from optax import contrib

import eqxopt

from .common import optax_rate, Pair, rate


def adopt(*options, **more):
    # optax takes the root of an int32 count in float32, so here it is a float.
    clip = {"clip_value_fn": lambda count: jnp.asarray(count, float) ** 0.25}
    return contrib.adopt(*options, **(clip | more))


PARITY: dict[str, list[Pair]] = {
    "ADOPT": [
        (lambda: eqxopt.ADOPT(0.1), lambda: adopt(0.1)),
        (
            lambda: eqxopt.ADOPT(rate(), 0.8, 0.9, 0.1, nesterov=True),
            lambda: adopt(optax_rate(), 0.8, 0.9, 0.1, nesterov=True),
        ),
        (
            lambda: eqxopt.ADOPT(0.01, b2=0.9, use_clipping=False),
            lambda: adopt(0.01, b2=0.9, use_clipping=False),
        ),
        (
            lambda: eqxopt.ADOPT(0.1, clip_value_fn=0.5),
            lambda: adopt(0.1, clip_value_fn=lambda step: 0.5),
        ),
    ],
}
