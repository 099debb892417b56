from .abstract import (
    AbstractLineSearch as AbstractLineSearch,
    Line as Line,
    Point as Point,
)
from .backtracking import BacktrackingLineSearch as BacktrackingLineSearch
from .zoom import ZoomLineSearch as ZoomLineSearch
