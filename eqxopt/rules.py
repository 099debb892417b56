"""What rules are written in: fields, moments and small functions, for optimizers of your
own."""

from ._lazy import attach as _attach


__getattr__, __dir__, __all__ = _attach(globals())
