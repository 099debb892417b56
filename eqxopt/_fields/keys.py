"""Random keys as fields of an optimizer."""

import dataclasses
from typing import Any, TYPE_CHECKING, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray, UInt32

from .._compile.opaque import opaque_indices


KeyData: TypeAlias = UInt32[Array, "..."]

if TYPE_CHECKING:

    class Key:
        """A field that is set to a seed or a key, and read as its bits."""

        def __get__(self, instance: object, owner: Any = None) -> KeyData: ...
        def __set__(self, instance: object, value: int | Array) -> None: ...

else:
    Key: TypeAlias = KeyData


def as_key_data(seed: int | Int[Array, ""] | PRNGKeyArray) -> KeyData:
    """The raw bits of a seed or of a key, typed or raw. Bits can be saved and donated
    like any other array."""
    if not eqx.is_array_like(seed):
        raise TypeError(f"expected an integer seed or a PRNG key, got {seed!r}")
    dtype = jnp.result_type(seed)
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return jnp.array(jax.random.key_data(seed), copy=True)
    if jnp.issubdtype(dtype, jnp.integer) and jnp.ndim(seed) == 0:
        return jax.random.key_data(jax.random.key(seed))
    if dtype == jnp.uint32:
        return jnp.array(seed, copy=True)
    raise TypeError(f"expected an integer seed or a PRNG key, got {seed!r}")


def key_names(module: Any) -> list[str]:
    """The names of the fields that hold random keys."""
    return [
        field.name
        for field in dataclasses.fields(module)
        if field.metadata.get("converter") is as_key_data
    ]


def own_keys(
    module: Any, count: Int[Array, ""], length: int
) -> list[dict[str, KeyData]]:
    """For each of `length` parameters, the key fields of `module` with a key of its own
    at the step `count`."""
    for name in key_names(module):
        dtype = getattr(module, name).dtype
        if dtype != jnp.uint32:
            raise TypeError(
                f"`{type(module).__name__}.{name}` has dtype {dtype}, but the bits of "
                "a random key are uint32"
            )
    columns = {
        name: jax.random.key_data(
            jax.random.split(
                jax.random.fold_in(
                    jax.random.wrap_key_data(getattr(module, name)), count
                ),
                length,
            )
        )
        for name in key_names(module)
    }
    if not columns:
        return [{}] * length
    return [
        {
            name: jax.lax.dynamic_index_in_dim(keys, place, keepdims=False)
            for name, keys in columns.items()
        }
        for place in opaque_indices(range(length), count)
    ]


def key_field(**options: Any) -> Any:
    """A field that holds the bits of a random key, set to a seed or a key.

    Inside a rule it is the key of this step and this parameter.
    """
    metadata = {"like": "int | Array"}
    return eqx.field(converter=as_key_data, metadata=metadata, **options)
