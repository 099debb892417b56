"""Gaussian noise that fades."""

from typing import NamedTuple

import jax
from jaxtyping import Array, Float, Inexact

from ._key import KeyData, split_key
from ._math import sqrt


class NoiseKey(NamedTuple):
    """The random bits from which a parameter's coming noise is drawn."""

    key: KeyData


def fading_noise(
    state: NoiseKey,
    like: Inexact[Array, "*shape"],
    eta: Float[Array, ""],
    gamma: Float[Array, ""],
    t: Float[Array, ""],
) -> tuple[Inexact[Array, "*shape"], NoiseKey]:
    r"""Noise of variance $\eta / t^\gamma$ in every entry, and the next state."""
    now, later = split_key(state.key)
    noise = jax.random.normal(now, like.shape, like.dtype)
    return sqrt(eta * t**-gamma) * noise, NoiseKey(later)
