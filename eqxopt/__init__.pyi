from . import interop as interop, rules as rules, schedules as schedules
from ._abstract.coupled import AbstractCoupledOptimizer as AbstractCoupledOptimizer
from ._abstract.leafwise import (
    AbstractLeafwiseOptimizer as AbstractLeafwiseOptimizer,
    AbstractLeafwiseTransform as AbstractLeafwiseTransform,
)
from ._abstract.matrixwise import (
    AbstractMatrixOptimizer as AbstractMatrixOptimizer,
    AbstractRefreshedMatrixOptimizer as AbstractRefreshedMatrixOptimizer,
)
from ._abstract.optimizer import AbstractOptimizer as AbstractOptimizer
from ._abstract.rescaling import AbstractRescaling as AbstractRescaling
from ._abstract.transform import AbstractTransform as AbstractTransform
from ._abstract.wrapper import (
    AbstractSharedWrapper as AbstractSharedWrapper,
    AbstractWrapper as AbstractWrapper,
)
from ._curvature.bfgs import BFGS as BFGS, SSBFGS as SSBFGS, SSBroyden as SSBroyden
from ._curvature.gauss_newton import GaussNewton as GaussNewton
from ._curvature.lbfgs import LBFGS as LBFGS
from ._curvature.levenberg_marquardt import LevenbergMarquardt as LevenbergMarquardt
from ._curvature.newton_cg import NewtonCG as NewtonCG
from ._curvature.rowwise import rowwise as rowwise
from ._describe import describe as describe
from ._fields.hyperparameter import PerParameter as PerParameter
from ._fields.matrices import by_head as by_head
from ._line_search.backtracking import BacktrackingLineSearch as BacktrackingLineSearch
from ._line_search.grid import GridLineSearch as GridLineSearch
from ._line_search.zoom import ZoomLineSearch as ZoomLineSearch
from ._matrices._newton_schulz import NewtonSchulz as NewtonSchulz
from ._matrices.apollo import APOLLO as APOLLO
from ._matrices.galore import GaLore as GaLore
from ._matrices.kl_shampoo import KLShampoo as KLShampoo
from ._matrices.muon import Muon as Muon
from ._matrices.normuon import NorMuon as NorMuon
from ._matrices.psgd_kron import PSGDKron as PSGDKron
from ._matrices.scion import Scion as Scion
from ._matrices.shampoo import Shampoo as Shampoo
from ._matrices.soap import SOAP as SOAP
from ._optim.acprop import AcProp as AcProp
from ._optim.adabelief import AdaBelief as AdaBelief
from ._optim.adadelta import Adadelta as Adadelta
from ._optim.adafactor import Adafactor as Adafactor
from ._optim.adagrad import Adagrad as Adagrad
from ._optim.adam import Adam as Adam, AdamW as AdamW, NAdam as NAdam, NAdamW as NAdamW
from ._optim.adam_mini import AdamMini as AdamMini
from ._optim.adamax import Adamax as Adamax, AdamaxW as AdamaxW
from ._optim.adan import Adan as Adan
from ._optim.ademamix import (
    AdEMAMix as AdEMAMix,
    SimplifiedAdEMAMix as SimplifiedAdEMAMix,
)
from ._optim.adopt import ADOPT as ADOPT
from ._optim.amsgrad import AMSGrad as AMSGrad
from ._optim.came import CAME as CAME
from ._optim.cocob import COCOB as COCOB
from ._optim.dadapt import DAdaptAdamW as DAdaptAdamW, Prodigy as Prodigy
from ._optim.dog import DoG as DoG, DoWG as DoWG
from ._optim.fromage import Fromage as Fromage
from ._optim.lamb import LAMB as LAMB
from ._optim.laprop import LaProp as LaProp
from ._optim.lars import LARS as LARS
from ._optim.lion import Lion as Lion
from ._optim.madgrad import MADGRAD as MADGRAD
from ._optim.mars import MARS as MARS
from ._optim.momo import MoMo as MoMo, MoMoAdam as MoMoAdam
from ._optim.noisy_sgd import NoisySGD as NoisySGD
from ._optim.novograd import NovoGrad as NovoGrad
from ._optim.optimistic import OptimisticGradientDescent as OptimisticGradientDescent
from ._optim.optimistic_adam import OptimisticAdam as OptimisticAdam
from ._optim.polyak import PolyakSGD as PolyakSGD
from ._optim.radam import RAdam as RAdam
from ._optim.rmsprop import RMSProp as RMSProp
from ._optim.rprop import Rprop as Rprop
from ._optim.schedule_free import (
    ScheduleFreeAdamW as ScheduleFreeAdamW,
    ScheduleFreeSGD as ScheduleFreeSGD,
)
from ._optim.sgd import SGD as SGD
from ._optim.sign_sgd import SignSGD as SignSGD, Signum as Signum
from ._optim.sm3 import SM3 as SM3
from ._optim.sophia import Sophia as Sophia
from ._optim.stable_adamw import StableAdamW as StableAdamW
from ._optim.yogi import Yogi as Yogi
from ._precision.abstract import AbstractNarrowWeights as AbstractNarrowWeights
from ._precision.compact_state import CompactState as CompactState
from ._precision.compensated_weights import CompensatedWeights as CompensatedWeights
from ._precision.loss_scaling import LossScaling as LossScaling
from ._precision.master_weights import MasterWeights as MasterWeights
from ._precision.split_weights import SplitWeights as SplitWeights
from ._precision.stochastic_rounding import StochasticRounding as StochasticRounding
from ._training._history import History as History
from ._training._range_result import RangeTest as RangeTest
from ._training._sweep_result import Sweep as Sweep
from ._training.checkpoint import load as load, save as save
from ._training.fit import fit as fit
from ._training.random_points import (
    Between as Between,
    random_points as random_points,
)
from ._training.range_test import range_test as range_test
from ._training.shard import shard as shard
from ._training.step import make_step as make_step
from ._training.sweep import sweep as sweep
from ._transform.adaptive_clip import (
    AdaptiveGradientClipping as AdaptiveGradientClipping,
)
from ._transform.box import KeepInBox as KeepInBox, KeepNonnegative as KeepNonnegative
from ._transform.centralize import CentralizeGradients as CentralizeGradients
from ._transform.clip import (
    ClipByGlobalNorm as ClipByGlobalNorm,
    ClipByNorm as ClipByNorm,
    ClipByValue as ClipByValue,
)
from ._transform.decay import AddDecayedWeights as AddDecayedWeights
from ._transform.nans import ZeroNaNs as ZeroNaNs
from ._transform.noise import AddNoise as AddNoise
from ._transform.private import (
    DifferentiallyPrivateAggregate as DifferentiallyPrivateAggregate,
)
from ._transform.scale import (
    Normalize as Normalize,
    Scale as Scale,
    ScaleByTrustRatio as ScaleByTrustRatio,
    Sign as Sign,
)
from ._wrapper.accumulate import Accumulate as Accumulate
from ._wrapper.cautious import Cautious as Cautious
from ._wrapper.chain import Chain as Chain
from ._wrapper.ema import EMA as EMA
from ._wrapper.hyperball import Hyperball as Hyperball
from ._wrapper.lookahead import Lookahead as Lookahead
from ._wrapper.mechanic import Mechanic as Mechanic
from ._wrapper.monitor import Monitor as Monitor
from ._wrapper.partition import (
    Freeze as Freeze,
    masked as masked,
    Partition as Partition,
)
from ._wrapper.plateau import ReduceOnPlateau as ReduceOnPlateau
from ._wrapper.sam import SAM as SAM
from ._wrapper.schedule_free import ScheduleFree as ScheduleFree
from ._wrapper.skip_nonfinite import SkipNonFinite as SkipNonFinite
from ._wrapper.skip_on_spike import SkipOnSpike as SkipOnSpike
from ._wrapper.weight_decay import (
    CautiousWeightDecay as CautiousWeightDecay,
    DecoupledWeightDecay as DecoupledWeightDecay,
)

__version__: str
