"""To and from optax, which is imported only when one of these is called."""

from .. import _lazy


__getattr__, __dir__, __all__ = _lazy.attach(globals())
