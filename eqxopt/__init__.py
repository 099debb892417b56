"""Optimizers as Equinox modules."""

import importlib.metadata

from . import schedules as schedules
from ._hyperparameter import PerParameter as PerParameter
from ._leafwise import AbstractLeafwiseOptimizer as AbstractLeafwiseOptimizer
from ._optim import Adam as Adam, AdamW as AdamW, SGD as SGD
from ._optimizer import (
    AbstractOptimizer as AbstractOptimizer,
    AbstractTransform as AbstractTransform,
)


__version__ = importlib.metadata.version("eqxopt")
