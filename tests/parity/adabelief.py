"""AdaBelief beside optax."""

import optax

import eqxopt

from .common import MASK, optax_rate, Pair, rate


def decayed_adabelief(learning_rate, weight_decay, mask=None, **options):
    # The options of a later optax.
    return optax.chain(
        optax.scale_by_belief(**options),
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )


PARITY: dict[str, list[Pair]] = {
    "AdaBelief": [
        (lambda: eqxopt.AdaBelief(0.1), lambda: optax.adabelief(0.1)),
        (
            lambda: eqxopt.AdaBelief(rate(), 0.8, 0.95, 1e-4, 1e-6, nesterov=True),
            lambda: optax.adabelief(optax_rate(), 0.8, 0.95, 1e-4, 1e-6, nesterov=True),
        ),
        (
            lambda: eqxopt.AdaBelief(0.1, weight_decay=0.1),
            lambda: decayed_adabelief(0.1, 0.1),
        ),
        (
            lambda: eqxopt.AdaBelief(
                rate(), b1=0.8, weight_decay=0.1, weight_decay_mask=MASK
            ),
            lambda: decayed_adabelief(optax_rate(), 0.1, MASK, b1=0.8),
        ),
    ],
}
