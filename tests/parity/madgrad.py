"""MADGRAD beside optax."""

import jax.numpy as jnp
import optax
from optax import contrib

import eqxopt

from .common import optax_rate, Pair, rate


def madgrad(*options):
    """optax takes the root of an int32 count in float32, so here it is a float."""
    tx = contrib.madgrad(*options)

    def init(params):
        first, state = tx.init(params)
        return first, state._replace(count=jnp.asarray(state.count, float))

    return optax.GradientTransformation(init, tx.update)


PARITY: dict[str, list[Pair]] = {
    "MADGRAD": [
        (lambda: eqxopt.MADGRAD(0.1), lambda: madgrad(0.1)),
        (
            lambda: eqxopt.MADGRAD(rate(), 0.8, 0.1, 1e-3),
            lambda: madgrad(optax_rate(), 0.8, 0.1, 1e-3),
        ),
    ],
}
