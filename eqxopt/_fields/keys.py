"""Random keys as fields of an optimizer."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray, UInt32

from .._compile.opaque import hidden


KeyData = UInt32[Array, "..."]


def as_key_data(seed: int | Int[Array, ""] | PRNGKeyArray) -> KeyData:
    """A seed or a key, new-style or raw, as the raw bits that an optimizer keeps: they
    can be saved and donated like any other array."""
    dtype = jnp.result_type(seed)
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return jnp.array(jax.random.key_data(seed), copy=True)
    if jnp.issubdtype(dtype, jnp.integer) and jnp.ndim(seed) == 0:
        return jax.random.key_data(jax.random.key(seed))
    if dtype == jnp.uint32:
        return jnp.array(seed, copy=True)
    raise TypeError(f"expected an integer seed or a PRNG key, got {seed!r}")


def own_keys(
    module: Any, count: Int[Array, ""], length: int
) -> list[dict[str, KeyData]]:
    """The key fields of `module`, made the own ones of each of `length` parameters at
    the step `count`."""
    columns = {
        field.name: jax.random.key_data(
            jax.random.split(
                jax.random.fold_in(
                    jax.random.wrap_key_data(getattr(module, field.name)), count
                ),
                length,
            )
        )
        for field in dataclasses.fields(module)
        if field.metadata.get("converter") is as_key_data
    }
    if not columns:
        return [{}] * length
    return [
        {
            name: jax.lax.dynamic_index_in_dim(keys, place, keepdims=False)
            for name, keys in columns.items()
        }
        for place in hidden(range(length), count)
    ]
