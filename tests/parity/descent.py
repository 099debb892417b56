"""Noisy and optimistic gradient descent beside optax."""

import optax

import eqxopt

from .common import optax_rate, Pair, rate


PARITY: dict[str, list[Pair]] = {
    # The two libraries draw different noise, so only its absence can be compared.
    "NoisySGD": [
        (
            lambda: eqxopt.NoisySGD(0.1, eta=0.0),
            lambda: optax.noisy_sgd(0.1, eta=0.0, key=0),
        ),
        (
            lambda: eqxopt.NoisySGD(rate(), 0.0, 0.3, 7),
            lambda: optax.noisy_sgd(optax_rate(), 0.0, 0.3, 7),
        ),
    ],
    "OptimisticGradientDescent": [
        (
            lambda: eqxopt.OptimisticGradientDescent(0.1),
            lambda: optax.optimistic_gradient_descent(0.1),
        ),
        (
            lambda: eqxopt.OptimisticGradientDescent(rate(), 0.8, 0.5),
            lambda: optax.optimistic_gradient_descent(optax_rate(), 0.8, 0.5),
        ),
    ],
}
