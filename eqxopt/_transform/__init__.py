from .adaptive_clip import AdaptiveGradientClipping as AdaptiveGradientClipping
from .box import KeepInBox as KeepInBox, KeepNonnegative as KeepNonnegative
from .centralize import CentralizeGradients as CentralizeGradients
from .clip import (
    ClipByGlobalNorm as ClipByGlobalNorm,
    ClipByNorm as ClipByNorm,
    ClipByValue as ClipByValue,
)
from .decay import AddDecayedWeights as AddDecayedWeights
from .nans import ZeroNaNs as ZeroNaNs
from .noise import AddNoise as AddNoise
from .private import (
    DifferentiallyPrivateAggregate as DifferentiallyPrivateAggregate,
)
from .scale import (
    Normalize as Normalize,
    Scale as Scale,
    ScaleByTrustRatio as ScaleByTrustRatio,
    Sign as Sign,
)
