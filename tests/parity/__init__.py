"""Every optimizer beside its optax counterpart, with default and other options."""

from . import (
    adabelief,
    adagrad,
    adam,
    adamax,
    ademamix,
    amsgrad,
    descent,
    factored,
    lion,
    nadam,
    novograd,
    radam,
    rprop,
    sgd,
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
    **amsgrad.PARITY,
    **descent.PARITY,
    **factored.PARITY,
    **lion.PARITY,
    **nadam.PARITY,
    **novograd.PARITY,
    **radam.PARITY,
    **rprop.PARITY,
    **sgd.PARITY,
    **trust_ratio.PARITY,
    **yogi.PARITY,
}
