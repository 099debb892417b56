"""Gaussian noise that fades."""

import jax

from .._math.small import sqrt
from .._types import Leaf, Scalar
from .keys import KeyData


def fading_noise(
    key: KeyData,
    like: Leaf,
    eta: Scalar,
    gamma: Scalar,
    t: Scalar,
) -> Leaf:
    r"""Noise of variance $\eta / t^\gamma$ in every entry."""
    noise = jax.random.normal(jax.random.wrap_key_data(key), like.shape, like.dtype)
    return sqrt(eta * t**-gamma) * noise
