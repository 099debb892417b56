"""SM3 and Adafactor, whose state is smaller than the parameter, beside optax."""

import jax
import jax.numpy as jnp
import optax

import eqxopt

from .common import MASK, optax_rate, Pair, rate


def at_least_1d(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """optax's SM3 fails for a scalar, which is a vector of one entry."""

    def init(params):
        return tx.init(jax.tree.map(jnp.atleast_1d, params))

    def update(grads, state, params=None):
        updates, state = tx.update(jax.tree.map(jnp.atleast_1d, grads), state)
        return jax.tree.map(lambda u, g: u.reshape(g.shape), updates, grads), state

    return optax.GradientTransformation(init, update)


def float_(number: float):
    # As a Python number, optax's exponent of the decay is in float32.
    return jnp.asarray(number, float)


PARITY: dict[str, list[Pair]] = {
    "SM3": [
        (lambda: eqxopt.SM3(0.1), lambda: at_least_1d(optax.sm3(0.1))),
        (
            lambda: eqxopt.SM3(rate(), 0.7, eps=1e-3),
            lambda: at_least_1d(
                optax.chain(
                    optax.scale_by_sm3(0.7, eps=1e-3),
                    optax.scale_by_learning_rate(optax_rate()),
                )
            ),
        ),
        (
            lambda: eqxopt.SM3(0.1, None),
            lambda: at_least_1d(optax.sm3(0.1, 0.0)),
        ),
    ],
    "Adafactor": [
        (
            lambda: eqxopt.Adafactor(0.01),
            lambda: optax.adafactor(0.01, decay_rate=float_(0.8)),
        ),
        # Steps short enough not to be chaotic, without a rate.
        (
            lambda: eqxopt.Adafactor(clipping_threshold=0.01),
            lambda: optax.adafactor(decay_rate=float_(0.8), clipping_threshold=0.01),
        ),
        (
            lambda: eqxopt.Adafactor(rate(), clipping_threshold=None),
            lambda: optax.adafactor(
                optax_rate(), decay_rate=float_(0.8), clipping_threshold=None
            ),
        ),
        (
            lambda: eqxopt.Adafactor(
                0.1, 2, 0.6, -3, False, 1.1, 0.7, float, 0.01, 1e-3, True, MASK
            ),
            lambda: optax.adafactor(
                0.1, 2, float_(0.6), -3, False, 1.1, 0.7, float, 0.01, 1e-3, True, MASK
            ),
        ),
        (
            lambda: eqxopt.Adafactor(0.1, factored=False, weight_decay_rate=0.01),
            lambda: optax.adafactor(
                0.1, decay_rate=float_(0.8), factored=False, weight_decay_rate=0.01
            ),
        ),
    ],
}
