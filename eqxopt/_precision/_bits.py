"""The bits of float32 arrays: fewer of them, and random ones."""

from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, UInt32

from .._fields import KeyData
from .._sharding import tied


Bits: TypeAlias = UInt32[Array, "*shape"]
Wide: TypeAlias = Float32[Array, "*shape"]


def bits_of(x: Wide) -> Bits:
    return jax.lax.bitcast_convert_type(x, jnp.uint32)


def float_of(bits: Bits) -> Wide:
    return jax.lax.bitcast_convert_type(bits, jnp.float32)


def nearest_bits(x: Wide, dropped: int) -> Bits:
    """The bits of `x` with the last `dropped` of them 0, rounded to nearest even."""
    bits = bits_of(x)
    even = (bits >> dropped) & 1
    return _cut(x, bits + jnp.uint32((1 << (dropped - 1)) - 1) + even, dropped)


def stochastic_bits(x: Wide, dropped: int, key: KeyData) -> Bits:
    """The bits of `x` with the last `dropped` of them 0, rounded up or down at random,
    so that the mean is `x`. What has no such bits stays as it is."""
    noise = random_bits(key, x) >> (32 - dropped)
    bits = bits_of(x)
    return _cut(x, jnp.where(jnp.isfinite(x), bits + noise, bits), dropped)


def _cut(x: Wide, bits: Bits, dropped: int) -> Bits:
    # The carry of a NaN could end in its sign.
    bits = jnp.where(jnp.isnan(x), jnp.uint32(0x7FC00000), bits)
    return bits & jnp.uint32(2**32 - (1 << dropped))


def random_bits(key: KeyData, like: Wide) -> Bits:
    """32 random bits for every entry of `like`, by a hash of its index.

    It costs a few integer operations beside the reading and writing of an update. Bits
    of 16.8M entries, jax 0.10.2 on CPU, November 2026: 62 ms, of which most is writing
    them, and 563 ms by `jax.random.bits`.
    """
    index = jnp.zeros(like.shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(like.ndim)):
        along = jax.lax.broadcasted_iota(jnp.uint32, like.shape, axis)
        index = index + along * jnp.uint32(stride % 2**32)
        stride *= like.shape[axis]
    # An odd stride is a permutation, and differs from step to step: with an offset
    # alone, one entry would get what another one had before.
    x = tied(index, like) * (key[..., -1] | 1) + key[..., 0]
    # The finalizer `lowbias32` of Chris Wellons' hash-prospector.
    x = (x ^ x >> 16) * jnp.uint32(0x7FEB352D)
    x = (x ^ x >> 15) * jnp.uint32(0x846CA68B)
    return x ^ x >> 16
