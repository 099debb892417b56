from .acprop import AcProp as AcProp
from .adabelief import AdaBelief as AdaBelief
from .adadelta import Adadelta as Adadelta
from .adafactor import Adafactor as Adafactor
from .adagrad import Adagrad as Adagrad
from .adam import Adam as Adam, AdamW as AdamW, NAdam as NAdam, NAdamW as NAdamW
from .adam_mini import AdamMini as AdamMini
from .adamax import Adamax as Adamax, AdamaxW as AdamaxW
from .adan import Adan as Adan
from .ademamix import AdEMAMix as AdEMAMix, SimplifiedAdEMAMix as SimplifiedAdEMAMix
from .adopt import ADOPT as ADOPT
from .amsgrad import AMSGrad as AMSGrad
from .came import CAME as CAME
from .cocob import COCOB as COCOB
from .dadapt import DAdaptAdamW as DAdaptAdamW, Prodigy as Prodigy
from .dog import DoG as DoG, DoWG as DoWG
from .fromage import Fromage as Fromage
from .lamb import LAMB as LAMB
from .laprop import LaProp as LaProp
from .lars import LARS as LARS
from .lbfgs import LBFGS as LBFGS
from .lion import Lion as Lion
from .madgrad import MADGRAD as MADGRAD
from .mars import MARS as MARS
from .momo import MoMo as MoMo, MoMoAdam as MoMoAdam
from .noisy_sgd import NoisySGD as NoisySGD
from .novograd import NovoGrad as NovoGrad
from .optimistic import OptimisticGradientDescent as OptimisticGradientDescent
from .optimistic_adam import OptimisticAdam as OptimisticAdam
from .polyak import PolyakSGD as PolyakSGD
from .radam import RAdam as RAdam
from .rmsprop import RMSProp as RMSProp
from .rprop import Rprop as Rprop
from .schedule_free import (
    ScheduleFreeAdamW as ScheduleFreeAdamW,
    ScheduleFreeSGD as ScheduleFreeSGD,
)
from .sgd import SGD as SGD
from .sign_sgd import SignSGD as SignSGD, Signum as Signum
from .sm3 import SM3 as SM3
from .sophia import Sophia as Sophia
from .stable_adamw import StableAdamW as StableAdamW
from .yogi import Yogi as Yogi
