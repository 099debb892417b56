"""Gaussian noise that fades."""

import jax
from jaxtyping import Array, Float, Inexact

from ._key import KeyData
from ._math import sqrt


def fading_noise(
    key: KeyData,
    like: Inexact[Array, "*shape"],
    eta: Float[Array, ""],
    gamma: Float[Array, ""],
    t: Float[Array, ""],
) -> Inexact[Array, "*shape"]:
    r"""Noise of variance $\eta / t^\gamma$ in every entry."""
    noise = jax.random.normal(jax.random.wrap_key_data(key), like.shape, like.dtype)
    return sqrt(eta * t**-gamma) * noise
