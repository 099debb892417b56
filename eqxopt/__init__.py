"""Optimizers as Equinox modules. The names and their places are in the stub."""

import importlib.metadata

from . import _lazy


__getattr__, __dir__, __all__ = _lazy.attach(globals())
__version__ = importlib.metadata.version("eqxopt")
