"""Optimizers beside their optax counterparts, with default and other options."""

from tables import merged

from .common import Pair


PARITY: dict[str, list[Pair]] = merged(__path__, __name__, "PARITY")
