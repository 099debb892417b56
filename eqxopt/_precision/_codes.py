"""Moments in fewer bits than float32 has."""

import abc
import math
from collections.abc import Iterator, Sequence
from typing import Any, get_args, get_type_hints

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jax.core import Tracer
from jaxtyping import Array, BFloat16, Float32, Int8, Shaped, UInt8, UInt32

from .._fields import KeyData
from .._sharding import gathered, tied
from .._types import AnyLeaf, FirstMoment, SecondMoment, Self
from ._bits import bits_of, float_of, nearest_bits, stochastic_bits


Path = tuple[str, ...]
"""Where a record has a moment: the names of the fields on the way."""
Moment = Float32[Array, "*shape"]

# The entries that share a scale.
BLOCK = 32


class AbstractCode(eqx.Module):
    """A moment in other bits, or two of one shape."""

    dtypes: eqx.AbstractVar[tuple[jnp.dtype, ...]]
    """The dtypes in which the rule keeps them."""
    partner: eqx.AbstractVar[Path | None]
    """Where the record has the second one."""

    @abc.abstractmethod
    def decode(self, zero: UInt32[Array, ""]) -> list[Moment]:
        """The moments. `zero` is a number that the compiler does not know to be 0."""

    @abc.abstractmethod
    def encode(
        self, moments: Sequence[Moment], again: Sequence[Moment], key: KeyData
    ) -> Self:
        """The same code of other moments. `again` has them as well, computed apart, for
        what needs them a second time."""


class Half(AbstractCode):
    """A moment in bfloat16, rounded at random."""

    half: BFloat16[Array, "*shape"]
    dtypes: tuple[jnp.dtype, ...] = eqx.field(static=True)
    partner: None = eqx.field(default=None, static=True)

    def decode(self, zero: UInt32[Array, ""]) -> list[Moment]:
        return [self.half.astype(jnp.float32)]

    def encode(
        self, moments: Sequence[Moment], again: Sequence[Moment], key: KeyData
    ) -> "Half":
        high = stochastic_bits(moments[0], 16, key) >> 16
        half = jax.lax.bitcast_convert_type(high.astype(jnp.uint16), jnp.bfloat16)
        return Half(half=half, dtypes=self.dtypes)


class Pair(AbstractCode):
    """Two moments in one word of 32 bits, each with 8 bits of exponent.

    `mantissas` has the other bits, but for a sign that a second moment lacks.
    """

    word: UInt32[Array, "*shape"]
    dtypes: tuple[jnp.dtype, ...] = eqx.field(static=True)
    partner: Path = eqx.field(static=True)
    signed: tuple[bool, bool] = eqx.field(static=True)
    mantissas: tuple[int, int] = eqx.field(static=True)
    at_random: bool = eqx.field(static=True)

    def decode(self, zero: UInt32[Array, ""]) -> list[Moment]:
        low = self._low_bits
        high = (self.word >> low) << (32 - self._high_bits)
        low = self.word << (32 - low)
        return [
            float_of(bits if signed else bits >> 1)
            for bits, signed in zip((high, low), self.signed)
        ]

    def encode(
        self, moments: Sequence[Moment], again: Sequence[Moment], key: KeyData
    ) -> "Pair":
        bits = []
        for i, (x, mantissa) in enumerate(zip(moments, self.mantissas)):
            dropped = 23 - mantissa
            if self.at_random:
                new = stochastic_bits(x, dropped, key + jnp.uint32(i * 0x9E3779B9))
            else:
                new = nearest_bits(x, dropped)
            bits.append(new if self.signed[i] else new << 1)
        low = self._low_bits
        high = bits[0] >> (32 - self._high_bits) << low
        word = high | bits[1] >> (32 - low)
        return eqx.tree_at(lambda x: x.word, self, word)

    @property
    def _high_bits(self) -> int:
        return self.signed[0] + 8 + self.mantissas[0]

    @property
    def _low_bits(self) -> int:
        return self.signed[1] + 8 + self.mantissas[1]


class BlockCode(AbstractCode):
    """A moment in 8 bits: the root of its size relative to the largest of its block.

    So codes are finer near 0.
    """

    codes: Int8[Array, "*shape"] | UInt8[Array, "*shape"]
    scales: Float32[Array, "..."]
    dtypes: tuple[jnp.dtype, ...] = eqx.field(static=True)
    partner: None = eqx.field(default=None, static=True)

    def decode(self, zero: UInt32[Array, ""]) -> list[Moment]:
        codes = self.codes ^ zero.astype(self.codes.dtype)
        # No division: a compiler takes one to be too dear to be done in two kernels.
        x = _in_blocks(codes).astype(jnp.float32) * (1 / self._largest)
        moment = x * jnp.abs(x) * self.scales[..., None]
        return [tied(_as_array(moment, self.codes.shape), self.codes)]

    def encode(
        self, moments: Sequence[Moment], again: Sequence[Moment], key: KeyData
    ) -> "BlockCode":
        scales = _largest(_in_blocks(again[0]))
        x = _in_blocks(moments[0])
        # The compiler multiplies by the reciprocal, which has to be a normal number.
        scales = jnp.where(scales > 2.0**126, jnp.inf, scales)
        divisor = jnp.where(scales >= 2.0**-126, scales, 1)[..., None]
        ratio = jnp.abs(x) / divisor
        codes = jnp.round(jnp.sqrt(ratio) * self._largest)
        if self.codes.dtype == jnp.int8:
            codes = jnp.copysign(codes, x)
        else:
            # Nobody should divide by a mean of squares that is not 0 and stored as 0.
            codes = jnp.where(x > 0, jnp.maximum(codes, 1), codes)
        codes = _as_array(codes.astype(self.codes.dtype), self.codes.shape)
        codes = tied(codes, moments[0])
        return BlockCode(codes=codes, scales=scales, dtypes=self.dtypes)

    @property
    def _largest(self) -> int:
        return int(jnp.iinfo(self.codes.dtype).max)


class InPartner(eqx.Module):
    """Stands in a record for a moment that the code of another one has, too."""


def _in_blocks(x: Shaped[Array, "..."]) -> Shaped[Array, "... blocks block"]:
    """`x` with its last axis, or as many of the last as a block needs, in blocks."""
    lead, length = _block_axes(x.shape)
    x = gathered(x, len(lead)).reshape(*lead, length)
    if length % BLOCK:
        x = jnp.pad(x, [(0, 0)] * len(lead) + [(0, -length % BLOCK)])
    return x.reshape(*lead, -1, BLOCK)


def _as_array(
    x: Shaped[Array, "... blocks block"], shape: tuple[int, ...]
) -> Shaped[Array, "..."]:
    lead, length = _block_axes(shape)
    return x.reshape(*lead, -1)[..., :length].reshape(shape)


def _block_axes(shape: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
    """The axes before the blocks, and the length of all others together."""
    n = len(shape)
    while n and math.prod(shape[n:]) < BLOCK:
        n -= 1
    return shape[:n], math.prod(shape[n:])


def _largest(blocks: Float32[Array, "... block"]) -> Float32[Array, "..."]:
    """The largest magnitude in each block, NaN if there is one."""
    # Magnitudes are in the order of their bits. The maximum of integers becomes part of
    # one vectorised kernel, that of floats goes to a library: 16.8M entries, jax 0.10.2
    # on CPU, November 2026: 13 ms, and 280 ms.
    magnitudes = bits_of(jnp.abs(blocks))
    axis = (blocks.ndim - 1,)
    return float_of(jax.lax.reduce(magnitudes, jnp.uint32(0), jax.lax.max, axis))


def moments_of(record: Any) -> Iterator[tuple[Path, Any, bool]]:
    """The moments in the state of a parameter: where each is, what is there, and
    whether it may be negative."""
    if not hasattr(record, "_fields"):
        return
    hints = get_type_hints(type(record), include_extras=True)
    for name in record._fields:
        value = getattr(record, name)
        kinds = {hints[name], *get_args(hints[name])}
        if value is not None and kinds & {FirstMoment, SecondMoment}:
            yield (name,), value, FirstMoment in kinds
        for path, inside, signed in moments_of(value):
            yield (name, *path), inside, signed


def with_moments(record: Any, new: dict[Path, Any]) -> Any:
    """The state of a parameter with other moments."""
    for path, value in new.items():
        record = _with(record, path, value)
    return record


def _with(record: Any, path: Path, value: Any) -> Any:
    name, *rest = path
    inside = _with(getattr(record, name), tuple(rest), value) if rest else value
    return record._replace(**{name: inside})


def first_codes(
    moments: Sequence[tuple[Path, AnyLeaf, bool]],
    storage: str,
    mantissas: tuple[int, int],
) -> dict[Path, AbstractCode | InPartner]:
    """What stands for some moments, by their places."""
    if storage == "8-bit":
        return {path: _first_blocks(x, signed) for path, x, signed in moments}
    first = [(path, x) for path, x, signed in moments if signed]
    second = [(path, x) for path, x, signed in moments if not signed]
    codes: dict[Path, AbstractCode | InPartner] = {}

    def pair(a: Any, b: Any, signed: Any, mantissas: Any, at_random: bool) -> None:
        (path, x), (partner, y) = a, b
        word = jnp.zeros_like(x, dtype=jnp.uint32)
        dtypes = x.dtype, y.dtype
        code = Pair(
            word=word,
            dtypes=dtypes,
            partner=partner,
            signed=signed,
            mantissas=mantissas,
            at_random=at_random,
        )
        codes[path], codes[partner] = _encoded(code, x, y), InPartner()

    # The first mean of gradients and the first of squares: what a packed word is for.
    if first and second and first[0][1].shape == second[0][1].shape:
        packed = storage == "packed"
        bits = mantissas if packed else (7, 8)
        pair(first.pop(0), second.pop(0), (True, False), bits, not packed)
    for rest, signed, bits in (first, True, (7, 7)), (second, False, (8, 8)):
        while len(rest) > 1 and rest[0][1].shape == rest[1][1].shape:
            pair(rest.pop(0), rest.pop(0), (signed, signed), bits, True)
        for path, x in rest:
            half = jnp.zeros_like(x, dtype=jnp.bfloat16)
            codes[path] = _encoded(Half(half=half, dtypes=(x.dtype,)), x)
    return codes


def _first_blocks(x: AnyLeaf, signed: bool) -> AbstractCode:
    codes = jnp.zeros_like(x, dtype=jnp.int8 if signed else jnp.uint8)
    scales = jnp.zeros(_in_blocks(codes).shape[:-1], jnp.float32)
    return _encoded(BlockCode(codes=codes, scales=scales, dtypes=(x.dtype,)), x)


def _encoded(code: AbstractCode, *moments: AnyLeaf) -> AbstractCode:
    # Computed from what the moments are, so that inside jit codes lie where they lie.
    wide = [x.astype(jnp.float32) for x in moments]
    new = code.encode(wide, wide, jnp.zeros(2, jnp.uint32))
    first = moments[0]
    if isinstance(first, Tracer):
        return new

    def placed(x: Any) -> Any:
        if x.shape != first.shape or x.sharding == first.sharding:
            return x
        return jax.device_put(x, first.sharding)

    return jtu.tree_map(placed, new)
