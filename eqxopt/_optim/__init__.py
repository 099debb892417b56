from .adabelief import AdaBelief as AdaBelief
from .adadelta import Adadelta as Adadelta
from .adafactor import Adafactor as Adafactor
from .adagrad import Adagrad as Adagrad
from .adam import Adam as Adam, AdamW as AdamW, NAdam as NAdam, NAdamW as NAdamW
from .adamax import Adamax as Adamax, AdamaxW as AdamaxW
from .ademamix import SimplifiedAdEMAMix as SimplifiedAdEMAMix
from .amsgrad import AMSGrad as AMSGrad
from .fromage import Fromage as Fromage
from .lamb import LAMB as LAMB
from .lars import LARS as LARS
from .lion import Lion as Lion
from .noisy_sgd import NoisySGD as NoisySGD
from .novograd import NovoGrad as NovoGrad
from .optimistic import OptimisticGradientDescent as OptimisticGradientDescent
from .polyak import PolyakSGD as PolyakSGD
from .radam import RAdam as RAdam
from .rmsprop import RMSProp as RMSProp
from .rprop import Rprop as Rprop
from .sgd import SGD as SGD
from .sm3 import SM3 as SM3
from .yogi import Yogi as Yogi
