"""Conversion to and from optax, which is imported when one of these is called."""

from .. import _lazy


__getattr__, __dir__, __all__ = _lazy.attach(globals())
