from ._schedule.abstract import (
    AbstractSchedule as AbstractSchedule,
    Constant as Constant,
    Custom as Custom,
    Product as Product,
    Sum as Sum,
)
from ._schedule.cosine import (
    CosineDecay as CosineDecay,
    SGDR as SGDR,
    WarmupCosineDecay as WarmupCosineDecay,
)
from ._schedule.exponential import (
    ExponentialDecay as ExponentialDecay,
    WarmupExponentialDecay as WarmupExponentialDecay,
)
from ._schedule.join import Join as Join
from ._schedule.piecewise import (
    OneCycleCosine as OneCycleCosine,
    OneCycleLinear as OneCycleLinear,
    PiecewiseConstant as PiecewiseConstant,
    PiecewiseInterpolate as PiecewiseInterpolate,
)
from ._schedule.ramps import Linear as Linear, Polynomial as Polynomial
from ._schedule.warmup import (
    InverseSquareRoot as InverseSquareRoot,
    WarmupConstant as WarmupConstant,
    WarmupStableDecay as WarmupStableDecay,
)
