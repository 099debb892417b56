"""Values that move with the number of updates made."""

from ._schedule import (
    AbstractSchedule as AbstractSchedule,
    Constant as Constant,
    CosineDecay as CosineDecay,
    Custom as Custom,
    ExponentialDecay as ExponentialDecay,
    InverseSquareRoot as InverseSquareRoot,
    Join as Join,
    Linear as Linear,
    OneCycleCosine as OneCycleCosine,
    OneCycleLinear as OneCycleLinear,
    PiecewiseConstant as PiecewiseConstant,
    PiecewiseInterpolate as PiecewiseInterpolate,
    Polynomial as Polynomial,
    Product as Product,
    SGDR as SGDR,
    Sum as Sum,
    WarmupConstant as WarmupConstant,
    WarmupCosineDecay as WarmupCosineDecay,
    WarmupExponentialDecay as WarmupExponentialDecay,
    WarmupStableDecay as WarmupStableDecay,
)
