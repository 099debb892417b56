"""Every optimizer beside its optax counterpart, with default and other options."""

from . import (
    adabelief,
    adagrad,
    adam,
    adamax,
    ademamix,
    adopt,
    amsgrad,
    descent,
    factored,
    lion,
    madgrad,
    nadam,
    novograd,
    optimistic_adam,
    radam,
    rprop,
    sgd,
    sign_sgd,
    trust_ratio,
    yogi,
)
from .common import Pair


PARITY: dict[str, list[Pair]] = {
    **adabelief.PARITY,
    **adagrad.PARITY,
    **adam.PARITY,
    **adamax.PARITY,
    **ademamix.PARITY,
    **adopt.PARITY,
    **amsgrad.PARITY,
    **descent.PARITY,
    **factored.PARITY,
    **lion.PARITY,
    **madgrad.PARITY,
    **nadam.PARITY,
    **novograd.PARITY,
    **optimistic_adam.PARITY,
    **radam.PARITY,
    **rprop.PARITY,
    **sgd.PARITY,
    **sign_sgd.PARITY,
    **trust_ratio.PARITY,
    **yogi.PARITY,
}
