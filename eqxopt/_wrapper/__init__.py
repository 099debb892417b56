from .accumulate import Accumulate as Accumulate
from .cautious import Cautious as Cautious
from .chain import Chain as Chain
from .ema import EMA as EMA
from .hyperball import Hyperball as Hyperball
from .lookahead import Lookahead as Lookahead
from .mechanic import Mechanic as Mechanic
from .monitor import Monitor as Monitor
from .partition import Freeze as Freeze, masked as masked, Partition as Partition
from .plateau import ReduceOnPlateau as ReduceOnPlateau
from .sam import SAM as SAM
from .schedule_free import ScheduleFree as ScheduleFree
from .skip_nonfinite import SkipNonFinite as SkipNonFinite
from .skip_on_spike import SkipOnSpike as SkipOnSpike
from .weight_decay import (
    CautiousWeightDecay as CautiousWeightDecay,
    DecoupledWeightDecay as DecoupledWeightDecay,
)
