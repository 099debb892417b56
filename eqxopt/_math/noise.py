"""Noise that fades as training goes on."""

import jax
from jaxtyping import Array, UInt32

from .._types import Leaf, Scalar
from .small import sqrt


def fading_noise(
    key: UInt32[Array, "..."], like: Leaf, eta: Scalar, gamma: Scalar, t: Scalar
) -> Leaf:
    r"""Noise of variance $\eta / t^\gamma$ in every entry."""
    noise = jax.random.normal(jax.random.wrap_key_data(key), like.shape, like.dtype)
    return sqrt(eta * t**-gamma) * noise
