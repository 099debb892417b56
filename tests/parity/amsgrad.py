"""AMSGrad beside optax."""

import optax

import eqxopt

from .common import optax_rate, Pair, rate


PARITY: dict[str, list[Pair]] = {
    "AMSGrad": [
        (lambda: eqxopt.AMSGrad(0.1), lambda: optax.amsgrad(0.1)),
        (
            lambda: eqxopt.AMSGrad(rate(), 0.8, 0.7, 1e-4, 1e-6),
            lambda: optax.amsgrad(optax_rate(), 0.8, 0.7, 1e-4, 1e-6),
        ),
        (
            lambda: eqxopt.AMSGrad(0.1, b2=0.7, bias_correction_mu=False),
            lambda: optax.amsgrad(0.1, b2=0.7, bias_correction_mu=False),
        ),
        (
            lambda: eqxopt.AMSGrad(0.1, b2=0.7, bias_correction_nu=False),
            lambda: optax.amsgrad(0.1, b2=0.7, bias_correction_nu=False),
        ),
    ],
}
