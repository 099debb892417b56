"""Many arrays as one real vector, and back."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._dtype import compute_dtype, real_dtype
from .._sharding import gathered, tied
from .._types import AnyLeaf, Vector


def size_as_vector(arrays: Sequence[AnyLeaf]) -> int:
    """The length of the vector of these arrays."""
    return sum(x.size * (2 if jnp.iscomplexobj(x) else 1) for x in arrays)


def as_vector(arrays: Sequence[AnyLeaf], dtype: jnp.dtype) -> Vector:
    """All arrays, one after the other. A complex one counts as its real parts and then
    its imaginary parts."""
    parts = []
    for x in map(gathered, arrays):
        for part in (x.real, x.imag) if jnp.iscomplexobj(x) else (x,):
            parts.append(part.reshape(-1).astype(dtype))
    return jnp.concatenate(parts) if parts else jnp.zeros(0, dtype)


def as_arrays(vector: Vector, likes: Sequence[AnyLeaf]) -> list[AnyLeaf]:
    """The arrays of a vector, of the shapes and compute dtypes of `likes`."""
    arrays, start = [], 0

    def part(like: AnyLeaf) -> AnyLeaf:
        nonlocal start
        start += like.size
        own = vector[start - like.size : start]
        return own.reshape(like.shape).astype(real_dtype(compute_dtype(like.dtype)))

    for like in likes:
        new = part(like)
        if jnp.iscomplexobj(like):
            new = jax.lax.complex(new, part(like))
        arrays.append(tied(new, like))
    return arrays


def multiplied(
    matrix: Float[Array, "m n"], other: Float[Array, "n ..."]
) -> Float[Array, "m ..."]:
    """The product of a matrix with a vector or a matrix, in full precision on
    accelerators too."""
    return jnp.matmul(matrix, other, precision=jax.lax.Precision.HIGHEST)
