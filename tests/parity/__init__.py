"""Optimizers beside their optax counterparts, with default and other options."""

from tables import merged

from .common import Pair


PARITY: dict[str, list[Pair]] = merged(__name__, __path__, "PARITY")
