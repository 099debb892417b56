"""NovoGrad beside optax."""

import optax

import eqxopt

from .common import optax_rate, Pair, rate


PARITY: dict[str, list[Pair]] = {
    "NovoGrad": [
        (lambda: eqxopt.NovoGrad(0.1), lambda: optax.novograd(0.1)),
        (
            lambda: eqxopt.NovoGrad(rate(), 0.8, 0.95, 1e-4, 1e-6, 0.1),
            lambda: optax.novograd(optax_rate(), 0.8, 0.95, 1e-4, 1e-6, 0.1),
        ),
    ],
}
