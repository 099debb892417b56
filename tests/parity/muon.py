"""Muon beside optax."""

import jax
import optax

import eqxopt

from .common import MASK, optax_rate, Pair, rate


def numbers(params):
    """The axes of Equinox, outputs first, for all that has more than one axis."""

    def one(x):
        if x.ndim < 2:
            return None
        return optax.contrib.MuonDimensionNumbers(tuple(range(1, x.ndim)), 0)

    return jax.tree.map(one, params)


def muon(*args, **kwargs):
    return optax.contrib.muon(*args, muon_weight_dimension_numbers=numbers, **kwargs)


def fallback(learning_rate, **kwargs):
    return eqxopt.AdamW(learning_rate, nesterov=True, weight_decay=0.0, **kwargs)


TRIPLES = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
)

PARITY: dict[str, list[Pair]] = {
    "Muon": [
        (
            lambda: eqxopt.Muon(0.1, fallback=fallback(0.1)),
            lambda: muon(0.1),
        ),
        (
            lambda: eqxopt.Muon(
                rate(),
                0.8,
                1e-3,
                0.1,
                MASK,
                0.2,
                fallback=fallback(rate(), b1=0.7, b2=0.8, eps=1e-3),
                newton_schulz=eqxopt.NewtonSchulz(TRIPLES, 3, "standard"),
            ),
            lambda: muon(
                optax_rate(),
                TRIPLES,
                3,
                0.8,
                1e-3,
                0.1,
                MASK,
                consistent_rms=0.2,
                adam_b1=0.7,
                adam_b2=0.8,
            ),
        ),
        (
            lambda: eqxopt.Muon(
                0.1,
                nesterov=False,
                newton_schulz=eqxopt.NewtonSchulz(steps=2),
                fallback=eqxopt.AdamW(0.1, weight_decay=0.0),
            ),
            lambda: muon(0.1, ns_steps=2, nesterov=False),
        ),
    ],
}
