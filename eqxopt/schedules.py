"""Values that move with the number of updates made."""

from ._schedule import (
    AbstractSchedule as AbstractSchedule,
    Constant as Constant,
    CosineDecay as CosineDecay,
    Custom as Custom,
    Linear as Linear,
    WarmupCosineDecay as WarmupCosineDecay,
)
