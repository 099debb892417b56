"""Optimizers as Equinox modules."""

import importlib.metadata

from . import interop as interop, schedules as schedules
from ._describe import describe as describe
from ._hyperparameter import PerParameter as PerParameter
from ._leafwise import (
    AbstractLeafwiseOptimizer as AbstractLeafwiseOptimizer,
    AbstractLeafwiseTransform as AbstractLeafwiseTransform,
)
from ._line_search import (
    BacktrackingLineSearch as BacktrackingLineSearch,
    ZoomLineSearch as ZoomLineSearch,
)
from ._matrices import (
    APOLLO as APOLLO,
    GaLore as GaLore,
    KLShampoo as KLShampoo,
    Muon as Muon,
    NorMuon as NorMuon,
    PSGDKron as PSGDKron,
    Scion as Scion,
    Shampoo as Shampoo,
    SOAP as SOAP,
)
from ._optim import (
    AcProp as AcProp,
    AdaBelief as AdaBelief,
    Adadelta as Adadelta,
    Adafactor as Adafactor,
    Adagrad as Adagrad,
    Adam as Adam,
    Adamax as Adamax,
    AdamaxW as AdamaxW,
    AdamMini as AdamMini,
    AdamW as AdamW,
    Adan as Adan,
    AdEMAMix as AdEMAMix,
    ADOPT as ADOPT,
    AMSGrad as AMSGrad,
    CAME as CAME,
    COCOB as COCOB,
    DAdaptAdamW as DAdaptAdamW,
    DoG as DoG,
    DoWG as DoWG,
    Fromage as Fromage,
    LAMB as LAMB,
    LaProp as LaProp,
    LARS as LARS,
    LBFGS as LBFGS,
    Lion as Lion,
    MADGRAD as MADGRAD,
    MARS as MARS,
    MoMo as MoMo,
    MoMoAdam as MoMoAdam,
    NAdam as NAdam,
    NAdamW as NAdamW,
    NoisySGD as NoisySGD,
    NovoGrad as NovoGrad,
    OptimisticAdam as OptimisticAdam,
    OptimisticGradientDescent as OptimisticGradientDescent,
    PolyakSGD as PolyakSGD,
    Prodigy as Prodigy,
    RAdam as RAdam,
    RMSProp as RMSProp,
    Rprop as Rprop,
    ScheduleFreeAdamW as ScheduleFreeAdamW,
    ScheduleFreeSGD as ScheduleFreeSGD,
    SGD as SGD,
    SignSGD as SignSGD,
    Signum as Signum,
    SimplifiedAdEMAMix as SimplifiedAdEMAMix,
    SM3 as SM3,
    Sophia as Sophia,
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
    DifferentiallyPrivateAggregate as DifferentiallyPrivateAggregate,
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
    Hyperball as Hyperball,
    Lookahead as Lookahead,
    masked as masked,
    Mechanic as Mechanic,
    Monitor as Monitor,
    Partition as Partition,
    ReduceOnPlateau as ReduceOnPlateau,
    SAM as SAM,
    ScheduleFree as ScheduleFree,
    SkipNonFinite as SkipNonFinite,
    SkipOnSpike as SkipOnSpike,
)


__version__ = importlib.metadata.version("eqxopt")
