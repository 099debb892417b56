from .chain import Chain as Chain
from .partition import Freeze as Freeze, masked as masked, Partition as Partition
