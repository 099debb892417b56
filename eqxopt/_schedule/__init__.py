from .abstract import AbstractSchedule as AbstractSchedule, Custom as Custom
from .cosine import CosineDecay as CosineDecay, WarmupCosineDecay as WarmupCosineDecay
from .ramps import Constant as Constant, Linear as Linear
