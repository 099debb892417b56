"""Float32 arrays with fewer bits of mantissa, as bits."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, UInt32

from .._fields import KeyData
from ._rounding import random_bits


Bits = UInt32[Array, "*shape"]


def bits_of(x: Float32[Array, "*shape"]) -> Bits:
    return jax.lax.bitcast_convert_type(x, jnp.uint32)


def float_of(bits: Bits) -> Float32[Array, "*shape"]:
    return jax.lax.bitcast_convert_type(bits, jnp.float32)


def nearest_bits(x: Float32[Array, "*shape"], dropped: int) -> Bits:
    """The bits of `x` with the last `dropped` of them 0, rounded to nearest even."""
    bits = bits_of(x)
    even = (bits >> dropped) & 1
    return _cut(x, bits + jnp.uint32((1 << (dropped - 1)) - 1) + even, dropped)


def stochastic_bits(x: Float32[Array, "*shape"], dropped: int, key: KeyData) -> Bits:
    """The bits of `x` with the last `dropped` of them 0, rounded up or down at random,
    so that the mean is `x`. What has no such bits stays as it is."""
    noise = random_bits(key, x) >> (32 - dropped)
    bits = bits_of(x)
    return _cut(x, jnp.where(jnp.isfinite(x), bits + noise, bits), dropped)


def _cut(x: Float32[Array, "*shape"], bits: Bits, dropped: int) -> Bits:
    # The carry of a NaN could end in its sign.
    bits = jnp.where(jnp.isnan(x), jnp.uint32(0x7FC00000), bits)
    return bits & jnp.uint32(2**32 - (1 << dropped))
