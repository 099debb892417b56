"""The case table: every optimizer, and how the suites make and drive one."""

from collections.abc import Callable
from dataclasses import dataclass

import eqxopt


@dataclass(frozen=True)
class Case:
    """How to make an optimizer, and what its rule asks for.

    `make` uses options that bring every part of the rule into play. `complex` and
    `elementwise` say what the rule allows; `smooth` whether its updates move smoothly
    with its hyperparameters, so that finite differences mean something; `coupled`
    whether a parameter's update depends on the other parameters; `value` whether it
    needs the loss.
    """

    make: Callable[[], eqxopt.AbstractOptimizer]
    complex: bool = True
    elementwise: bool = True
    smooth: bool = True
    coupled: bool = False
    value: bool = False


CASES: dict[str, Case] = {
    "AcProp": Case(
        lambda: eqxopt.AcProp(0.01, b2=0.9, eps=1e-2, eps_root=1e-3, weight_decay=0.1)
    ),
    "AdaBelief": Case(
        lambda: eqxopt.AdaBelief(
            0.01, eps=1e-3, eps_root=1e-4, weight_decay=0.1, nesterov=True
        )
    ),
    "Adam": Case(lambda: eqxopt.Adam(0.01, nesterov=True)),
    "Adamax": Case(lambda: eqxopt.Adamax(0.01, b2=0.9, eps=1e-3)),
    "AdamaxW": Case(lambda: eqxopt.AdamaxW(0.01, b2=0.9, weight_decay=0.1)),
    "AdamW": Case(lambda: eqxopt.AdamW(0.01, weight_decay=0.1)),
    "Adan": Case(lambda: eqxopt.Adan(0.01, eps_root=1e-4, weight_decay=0.1)),
    "AdEMAMix": Case(
        lambda: eqxopt.AdEMAMix(0.01, b3=0.99, alpha=2.0, weight_decay=0.1)
    ),
    "ADOPT": Case(
        lambda: eqxopt.ADOPT(0.01, b2=0.9, eps=0.1, nesterov=True, clip_value_fn=1.5)
    ),
    "AMSGrad": Case(lambda: eqxopt.AMSGrad(0.01, b2=0.9, eps_root=1e-3)),
    "Fromage": Case(lambda: eqxopt.Fromage(0.01), elementwise=False),
    "LAMB": Case(lambda: eqxopt.LAMB(0.01, weight_decay=0.1), elementwise=False),
    "LARS": Case(
        lambda: eqxopt.LARS(0.01, 0.1, trust_coefficient=0.1, nesterov=True),
        elementwise=False,
    ),
    "LaProp": Case(lambda: eqxopt.LaProp(0.01, b2=0.9, weight_decay=0.1)),
    "Lion": Case(lambda: eqxopt.Lion(0.01, weight_decay=0.1)),
    "MADGRAD": Case(lambda: eqxopt.MADGRAD(0.1, weight_decay=0.1, eps=1e-3)),
    "Muon": Case(
        lambda: eqxopt.Muon(
            0.01,
            beta=0.9,
            weight_decay=0.1,
            consistent_rms=0.2,
            fallback=eqxopt.AdamW(0.01),
        ),
        elementwise=False,
    ),
    "NAdam": Case(lambda: eqxopt.NAdam(0.01)),
    "NAdamW": Case(lambda: eqxopt.NAdamW(0.01, weight_decay=0.1)),
    "NoisySGD": Case(lambda: eqxopt.NoisySGD(0.01, eta=0.1, seed=1), elementwise=False),
    "NovoGrad": Case(
        lambda: eqxopt.NovoGrad(0.01, weight_decay=0.1), elementwise=False
    ),
    "OptimisticGradientDescent": Case(
        lambda: eqxopt.OptimisticGradientDescent(0.01, alpha=0.8, beta=0.5)
    ),
    "OptimisticAdam": Case(
        lambda: eqxopt.OptimisticAdam(0.01, alpha=0.8, beta=0.5, b2=0.9)
    ),
    "SignSGD": Case(lambda: eqxopt.SignSGD(0.01)),
    "Signum": Case(lambda: eqxopt.Signum(0.01, 0.8)),
    "RAdam": Case(lambda: eqxopt.RAdam(0.01, nesterov=True)),
    "PolyakSGD": Case(
        lambda: eqxopt.PolyakSGD(scaling=0.5, f_min=0.1, eps=0.1),
        elementwise=False,
        coupled=True,
        value=True,
    ),
    "SGD": Case(lambda: eqxopt.SGD(0.01, momentum=0.9, nesterov=True)),
    "SimplifiedAdEMAMix": Case(
        lambda: eqxopt.SimplifiedAdEMAMix(0.01, alpha=2.0, weight_decay=0.1)
    ),
    "StableAdamW": Case(
        lambda: eqxopt.StableAdamW(0.01, b2=0.9, clipping_threshold=0.5),
        elementwise=False,
    ),
    "Yogi": Case(lambda: eqxopt.Yogi(0.01, b2=0.9)),
    "Adadelta": Case(lambda: eqxopt.Adadelta(1.0, eps=1e-3, weight_decay=0.1)),
    "Adafactor": Case(
        lambda: eqxopt.Adafactor(
            0.01,
            2,
            decay_offset=-2,
            clipping_threshold=0.5,
            momentum=0.9,
            dtype_momentum=None,
            weight_decay_rate=0.01,
        ),
        elementwise=False,
    ),
    "Adagrad": Case(lambda: eqxopt.Adagrad(0.1)),
    "RMSProp": Case(
        lambda: eqxopt.RMSProp(
            0.01,
            eps=1e-3,
            initial_scale=0.5,
            centered=True,
            momentum=0.9,
            nesterov=True,
            bias_correction=True,
        )
    ),
    "Rprop": Case(
        lambda: eqxopt.Rprop(0.01, delayed=False), complex=False, smooth=False
    ),
    "SM3": Case(lambda: eqxopt.SM3(0.1), elementwise=False),
}
