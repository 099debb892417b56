"""The update of every optimizer beside its counterpart in optax."""

import equinox as eqx
import jax
import optax
from optax import contrib

import eqxopt

from .large import carried
from .models import random_like, ResidualMLP
from .timing import Figure, interleaved


RATE = 1e-3
PAIRS = {
    "AdaBelief": (eqxopt.AdaBelief(RATE), optax.adabelief(RATE)),
    "Adadelta": (eqxopt.Adadelta(RATE), optax.adadelta(RATE)),
    "Adafactor": (eqxopt.Adafactor(RATE), optax.adafactor(RATE)),
    "Adagrad": (eqxopt.Adagrad(RATE), optax.adagrad(RATE)),
    "Adam": (eqxopt.Adam(RATE), optax.adam(RATE)),
    "Adamax": (eqxopt.Adamax(RATE), optax.adamax(RATE)),
    "AdamaxW": (eqxopt.AdamaxW(RATE), optax.adamaxw(RATE)),
    "AdamW": (eqxopt.AdamW(RATE), optax.adamw(RATE)),
    "AMSGrad": (eqxopt.AMSGrad(RATE), optax.amsgrad(RATE)),
    "Fromage": (eqxopt.Fromage(RATE), optax.fromage(RATE)),
    "LAMB": (eqxopt.LAMB(RATE), optax.lamb(RATE)),
    "LARS": (eqxopt.LARS(RATE), optax.lars(RATE)),
    "Lion": (eqxopt.Lion(RATE), optax.lion(RATE)),
    "NAdam": (eqxopt.NAdam(RATE), optax.nadam(RATE)),
    "NAdamW": (eqxopt.NAdamW(RATE), optax.nadamw(RATE)),
    "NoisySGD": (eqxopt.NoisySGD(RATE), optax.noisy_sgd(RATE)),
    "NovoGrad": (eqxopt.NovoGrad(RATE), optax.novograd(RATE)),
    "OptimisticGradientDescent": (
        eqxopt.OptimisticGradientDescent(RATE),
        optax.optimistic_gradient_descent(RATE),
    ),
    "PolyakSGD": (eqxopt.PolyakSGD(), optax.polyak_sgd()),
    "RAdam": (eqxopt.RAdam(RATE), optax.radam(RATE)),
    "RMSProp": (eqxopt.RMSProp(RATE), optax.rmsprop(RATE)),
    "Rprop": (eqxopt.Rprop(RATE), optax.rprop(RATE)),
    "SGD": (eqxopt.SGD(RATE), optax.sgd(RATE)),
    "SimplifiedAdEMAMix": (
        eqxopt.SimplifiedAdEMAMix(RATE),
        contrib.simplified_ademamix(RATE),
    ),
    "SM3": (eqxopt.SM3(RATE), optax.sm3(RATE)),
    "Yogi": (eqxopt.Yogi(RATE), optax.yogi(RATE)),
}


def beside_optax(name: str, params, grads, what: str, *, bar: float) -> Figure:
    opt, tx = PAIRS[name]
    tx = optax.with_extra_args_support(tx)

    def our_step(params, opt, grads):
        return opt.apply(grads, params, value=1.0)

    def their_step(params, state, grads):
        updates, state = tx.update(grads, state, params, value=1.0)
        return optax.apply_updates(params, updates), state

    return interleaved(
        f"{name}, {what}",
        carried(our_step, params, opt.init(params), grads),
        carried(their_step, params, tx.init(params), grads),
        bar=bar,
        repeats=40,
    )


def every_optimizer(params, what: str, *, bar: float, rounds: int = 3) -> list[Figure]:
    """Of as many figures of each as there are rounds, the one with the median ratio:
    where arrays come to lie in memory, and what else the machine does, matters."""
    grads = random_like(params, jax.random.key(1))
    measured = [
        [beside_optax(name, params, grads, what, bar=bar) for name in PAIRS]
        for _ in range(rounds)
    ]
    return [
        sorted(figures, key=lambda figure: figure.ratio)[rounds // 2]
        for figures in zip(*measured)
    ]


def small_and_large(*, bars: tuple[float, float]) -> list[Figure]:
    small = eqx.filter(ResidualMLP(60, key=jax.random.key(0)), eqx.is_inexact_array)
    large = jax.random.normal(jax.random.key(0), (2048, 2048))
    return [
        *every_optimizer(small, "60 leaves", bar=bars[0]),
        *every_optimizer(large, "4.2M entries", bar=bars[1]),
    ]


def large_alone(side: int, *, bar: float) -> list[Figure]:
    params = jax.random.normal(jax.random.key(0), (side, side))
    what = f"{side * side / 1e6:.1f}M entries"
    return every_optimizer(params, what, bar=bar, rounds=1)
