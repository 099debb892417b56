"""Optimizers beside transcriptions of their papers, or of their authors' code."""

from tables import merged

from .common import Pair


PAPER: dict[str, list[Pair]] = merged(__name__, __path__, "PAPER")
