from .abstract import (
    AbstractSchedule as AbstractSchedule,
    Constant as Constant,
    Custom as Custom,
    Product as Product,
    Sum as Sum,
)
from .cosine import (
    CosineDecay as CosineDecay,
    SGDR as SGDR,
    WarmupCosineDecay as WarmupCosineDecay,
)
from .exponential import (
    ExponentialDecay as ExponentialDecay,
    WarmupExponentialDecay as WarmupExponentialDecay,
)
from .join import Join as Join
from .piecewise import (
    OneCycleCosine as OneCycleCosine,
    OneCycleLinear as OneCycleLinear,
    PiecewiseConstant as PiecewiseConstant,
    PiecewiseInterpolate as PiecewiseInterpolate,
)
from .ramps import Linear as Linear, Polynomial as Polynomial
from .warmup import (
    InverseSquareRoot as InverseSquareRoot,
    WarmupConstant as WarmupConstant,
    WarmupStableDecay as WarmupStableDecay,
)
