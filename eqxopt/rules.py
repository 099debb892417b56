"""What rules are written in: fields, moments and small functions."""

from ._lazy import attach as _attach


__getattr__, __dir__, __all__ = _attach(globals())
