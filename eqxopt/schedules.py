"""Values that move with the number of updates made."""

from . import _lazy


__getattr__, __dir__, __all__ = _lazy.attach(globals())
