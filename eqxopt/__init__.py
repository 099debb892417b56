"""Optimizers as Equinox modules."""

import importlib.metadata

from . import interop as interop, schedules as schedules
from ._describe import describe as describe
from ._hyperparameter import PerParameter as PerParameter
from ._leafwise import (
    AbstractLeafwiseOptimizer as AbstractLeafwiseOptimizer,
    AbstractLeafwiseTransform as AbstractLeafwiseTransform,
)
from ._matrices import Muon as Muon
from ._optim import (
    AcProp as AcProp,
    AdaBelief as AdaBelief,
    Adadelta as Adadelta,
    Adafactor as Adafactor,
    Adagrad as Adagrad,
    Adam as Adam,
    Adamax as Adamax,
    AdamaxW as AdamaxW,
    AdamW as AdamW,
    Adan as Adan,
    AdEMAMix as AdEMAMix,
    ADOPT as ADOPT,
    AMSGrad as AMSGrad,
    Fromage as Fromage,
    LAMB as LAMB,
    LaProp as LaProp,
    LARS as LARS,
    Lion as Lion,
    MADGRAD as MADGRAD,
    NAdam as NAdam,
    NAdamW as NAdamW,
    NoisySGD as NoisySGD,
    NovoGrad as NovoGrad,
    OptimisticAdam as OptimisticAdam,
    OptimisticGradientDescent as OptimisticGradientDescent,
    PolyakSGD as PolyakSGD,
    RAdam as RAdam,
    RMSProp as RMSProp,
    Rprop as Rprop,
    SGD as SGD,
    SignSGD as SignSGD,
    Signum as Signum,
    SimplifiedAdEMAMix as SimplifiedAdEMAMix,
    SM3 as SM3,
    StableAdamW as StableAdamW,
    Yogi as Yogi,
)
from ._optimizer import (
    AbstractOptimizer as AbstractOptimizer,
    AbstractTransform as AbstractTransform,
)
from ._training import fit as fit, History as History, make_step as make_step
from ._transform import (
    AdaptiveGradientClipping as AdaptiveGradientClipping,
    AddDecayedWeights as AddDecayedWeights,
    AddNoise as AddNoise,
    CentralizeGradients as CentralizeGradients,
    ClipByGlobalNorm as ClipByGlobalNorm,
    ClipByNorm as ClipByNorm,
    ClipByValue as ClipByValue,
    KeepInBox as KeepInBox,
    KeepNonnegative as KeepNonnegative,
    Normalize as Normalize,
    Scale as Scale,
    ScaleByTrustRatio as ScaleByTrustRatio,
    Sign as Sign,
    ZeroNaNs as ZeroNaNs,
)
from ._wrapper import (
    Accumulate as Accumulate,
    Cautious as Cautious,
    CautiousWeightDecay as CautiousWeightDecay,
    Chain as Chain,
    DecoupledWeightDecay as DecoupledWeightDecay,
    EMA as EMA,
    Freeze as Freeze,
    Lookahead as Lookahead,
    masked as masked,
    Monitor as Monitor,
    Partition as Partition,
    ReduceOnPlateau as ReduceOnPlateau,
    SkipNonFinite as SkipNonFinite,
)


__version__ = importlib.metadata.version("eqxopt")
