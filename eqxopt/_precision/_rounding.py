"""Float32 arrays, rounded to what bfloat16 or float16 can hold.

We round the bits of float32 and give float32 back. A compiler may take out a conversion
to a narrow dtype and back, since that only makes results more precise, and with it the
rounding whose error we are after. Operations on bits stay.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int32

from .._fields import KeyData
from ._bits import Bits, bits_of, float_of, random_bits, Wide


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def nearest(x: Wide, dtype: jnp.dtype) -> Wide:
    """`x`, rounded to the nearest number of `dtype`, and to the even one of two. Its
    derivative is 1."""
    drop = _dropped_bits(dtype)
    bits = bits_of(x)
    half = (bits >> drop & 1) + (1 << drop - 1) - 1
    return _rounded(x, bits, half, jnp.round, dtype)


@nearest.defjvp
def _nearest_jvp(dtype: jnp.dtype, primals, tangents):
    return nearest(*primals, dtype), tangents[0]


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def stochastic(x: Wide, dtype: jnp.dtype, key: KeyData) -> Wide:
    """`x`, rounded to one of the two numbers of `dtype` around it, to each with a
    probability of one minus its distance, so that the mean is `x`.

    Where one of them is infinite, `x` is rounded to nearest. The derivative is 1.
    """
    random = random_bits(key, x)
    fraction = (random >> 8).astype(jnp.float32) * 2.0**-24
    up_or_down = lambda x: jnp.where(
        fraction < x - jnp.floor(x), jnp.floor(x) + 1, jnp.floor(x)
    )
    noise = random >> 32 - _dropped_bits(dtype)
    rounded = _rounded(x, bits_of(x), noise, up_or_down, dtype)
    safe = nearest(x, dtype)
    return jnp.where(jnp.isfinite(rounded) & jnp.isfinite(safe), rounded, safe)


@stochastic.defjvp
def _stochastic_jvp(dtype: jnp.dtype, primals, tangents):
    x, key = primals
    return stochastic(x, dtype, key), tangents[0]


def last_place(x: Wide, dtype: jnp.dtype) -> Int32[Array, "*shape"]:
    """The exponent of two of half a unit in the last place of `x`, held in `dtype`:
    the most by which rounding to nearest is wrong."""
    info = jnp.finfo(dtype)
    exponent = (bits_of(x) >> 23 & 0xFF).astype(jnp.int32) - 127
    return jnp.maximum(exponent, int(info.minexp)) - int(info.nmant) - 1


def times_power(x: Wide, exponent: Int32[Array, "*shape"]) -> Wide:
    """$x 2^n$, also where $2^n$ alone is out of the range of float32."""
    half = exponent >> 1
    return x * _power(half) * _power(exponent - half)


def _power(exponent: Int32[Array, "*shape"]) -> Wide:
    return float_of((exponent + 127 << 23).astype(jnp.uint32))


def _rounded(
    x: Wide, bits: Bits, noise: Bits, to_integer: Callable[[Any], Any], dtype: jnp.dtype
) -> Wide:
    """`x` without the bits that `dtype` has no place for. `noise` decides whether their
    sum carries over."""
    drop = _dropped_bits(dtype)
    kept = (bits + noise) >> drop << drop
    rounded = float_of(kept)
    if jnp.finfo(dtype).minexp > jnp.finfo(jnp.float32).minexp:
        # Subnormal numbers of `dtype` have one spacing, and are normal in float32.
        info = jnp.finfo(dtype)
        spacing = float(info.smallest_subnormal)
        size = jnp.abs(x)
        small = to_integer(jnp.minimum(size, float(info.tiny)) / spacing) * spacing
        rounded = jnp.where(size < float(info.tiny), jnp.copysign(small, x), rounded)
        most = jnp.copysign(jnp.inf, x)
        rounded = jnp.where(jnp.abs(rounded) > float(info.max), most, rounded)
    return jnp.where(jnp.isfinite(x), rounded, x)


def _dropped_bits(dtype: jnp.dtype) -> int:
    return int(jnp.finfo(jnp.float32).nmant) - int(jnp.finfo(dtype).nmant)
