"""Optimizers as Equinox modules."""

import importlib.metadata

from . import schedules as schedules
from ._describe import describe as describe
from ._hyperparameter import PerParameter as PerParameter
from ._leafwise import (
    AbstractLeafwiseOptimizer as AbstractLeafwiseOptimizer,
    AbstractLeafwiseTransform as AbstractLeafwiseTransform,
)
from ._optim import (
    AdaBelief as AdaBelief,
    Adadelta as Adadelta,
    Adafactor as Adafactor,
    Adagrad as Adagrad,
    Adam as Adam,
    Adamax as Adamax,
    AdamaxW as AdamaxW,
    AdamW as AdamW,
    AMSGrad as AMSGrad,
    Fromage as Fromage,
    LAMB as LAMB,
    LARS as LARS,
    Lion as Lion,
    NAdam as NAdam,
    NAdamW as NAdamW,
    NoisySGD as NoisySGD,
    NovoGrad as NovoGrad,
    OptimisticGradientDescent as OptimisticGradientDescent,
    PolyakSGD as PolyakSGD,
    RAdam as RAdam,
    RMSProp as RMSProp,
    Rprop as Rprop,
    SGD as SGD,
    SimplifiedAdEMAMix as SimplifiedAdEMAMix,
    SM3 as SM3,
    Yogi as Yogi,
)
from ._optimizer import (
    AbstractOptimizer as AbstractOptimizer,
    AbstractTransform as AbstractTransform,
)
from ._wrapper import (
    Chain as Chain,
    Freeze as Freeze,
    masked as masked,
    Partition as Partition,
)


__version__ = importlib.metadata.version("eqxopt")
