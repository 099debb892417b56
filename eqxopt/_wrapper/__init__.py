from .accumulate import Accumulate as Accumulate
from .cautious import Cautious as Cautious
from .chain import Chain as Chain
from .ema import EMA as EMA
from .lookahead import Lookahead as Lookahead
from .monitor import Monitor as Monitor
from .partition import Freeze as Freeze, masked as masked, Partition as Partition
from .plateau import ReduceOnPlateau as ReduceOnPlateau
from .skip_nonfinite import SkipNonFinite as SkipNonFinite
from .weight_decay import (
    CautiousWeightDecay as CautiousWeightDecay,
    DecoupledWeightDecay as DecoupledWeightDecay,
)
