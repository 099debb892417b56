"""Every optimizer beside its optax counterpart, with default and other options."""

from . import adam, sgd
from .common import Pair


PARITY: dict[str, list[Pair]] = {
    **adam.PARITY,
    **sgd.PARITY,
}
