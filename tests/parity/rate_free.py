"""Methods without a learning rate beside optax."""

import optax.contrib

import eqxopt

from .common import MASK, optax_rate, Pair, rate


PARITY: dict[str, list[Pair]] = {
    "COCOB": [
        (lambda: eqxopt.COCOB(), lambda: optax.contrib.cocob()),
        (
            lambda: eqxopt.COCOB(0.5, 30.0, 1e-2, 0.1, MASK),
            lambda: optax.contrib.cocob(0.5, 30.0, 1e-2, 0.1, MASK),
        ),
        (
            lambda: eqxopt.COCOB(rate()),
            lambda: optax.contrib.cocob(optax_rate()),
        ),
    ],
    "DAdaptAdamW": [
        # First with a short second moment: of a long one optax loses digits in float32.
        (
            lambda: eqxopt.DAdaptAdamW(0.5, 0.8, 0.9, 1e-3, 0.1, 0.01),
            lambda: optax.contrib.dadapt_adamw(0.5, (0.8, 0.9), 1e-3, 0.1, 0.01),
        ),
        (lambda: eqxopt.DAdaptAdamW(), lambda: optax.contrib.dadapt_adamw()),
        (
            lambda: eqxopt.DAdaptAdamW(0.1 + rate()),
            lambda: optax.contrib.dadapt_adamw(lambda step: 0.1 + optax_rate()(step)),
        ),
    ],
    "DoG": [
        (lambda: eqxopt.DoG(), lambda: optax.contrib.dog()),
        (
            lambda: eqxopt.DoG(rate(), 0.1, 1e-2, 0.1, MASK, init_step_type="distance"),
            lambda: optax.contrib.dog(optax_rate(), ("distance", 0.1), 1e-2, 0.1, MASK),
        ),
        (
            lambda: eqxopt.DoG(init_step=1e-3, init_step_type="learning_rate"),
            lambda: optax.contrib.dog(init_step=("learning_rate", 1e-3)),
        ),
    ],
    "DoWG": [
        (lambda: eqxopt.DoWG(), lambda: optax.contrib.dowg()),
        (
            lambda: eqxopt.DoWG(rate(), 0.1, 1e-2, 0.1, MASK),
            lambda: optax.contrib.dowg(optax_rate(), 0.1, 1e-2, 0.1, MASK),
        ),
        (lambda: eqxopt.DoWG(eps=0.1), lambda: optax.contrib.dowg(eps=0.1)),
    ],
    "MoMo": [
        (lambda: eqxopt.MoMo(), lambda: optax.contrib.momo()),
        (
            lambda: eqxopt.MoMo(0.1, 0.8, 2.0, 0.1, True),
            lambda: optax.contrib.momo(0.1, 0.8, 2.0, 0.1, True),
        ),
        (
            lambda: eqxopt.MoMo(rate(), lower_bound=-3.0, adapt_lower_bound=True),
            lambda: optax.contrib.momo(
                optax_rate(), lower_bound=-3.0, adapt_lower_bound=True
            ),
        ),
        (
            lambda: eqxopt.MoMo(10.0, 0.5, -1e4, adapt_lower_bound=True),
            lambda: optax.contrib.momo(10.0, 0.5, -1e4, adapt_lower_bound=True),
        ),
    ],
    "MoMoAdam": [
        (lambda: eqxopt.MoMoAdam(), lambda: optax.contrib.momo_adam()),
        (
            lambda: eqxopt.MoMoAdam(0.1, 0.8, 0.95, 1e-3, 2.0, 0.1, True),
            lambda: optax.contrib.momo_adam(0.1, 0.8, 0.95, 1e-3, 2.0, 0.1, True),
        ),
        (
            lambda: eqxopt.MoMoAdam(rate(), lower_bound=2e4, adapt_lower_bound=True),
            lambda: optax.contrib.momo_adam(
                optax_rate(), lower_bound=2e4, adapt_lower_bound=True
            ),
        ),
    ],
    "Prodigy": [
        (lambda: eqxopt.Prodigy(), lambda: optax.contrib.prodigy()),
        (
            lambda: eqxopt.Prodigy(0.5, 0.8, 0.95, 0.9, 1e-3, 0.1, 0.5, 0.01),
            lambda: optax.contrib.prodigy(0.5, (0.8, 0.95), 0.9, 1e-3, 0.1, 0.5, 0.01),
        ),
        (
            lambda: eqxopt.Prodigy(rate(), estim_lr0=0.01, safeguard_warmup=True),
            lambda: optax.contrib.prodigy(
                optax_rate(), estim_lr0=0.01, safeguard_warmup=True
            ),
        ),
    ],
}
