"""The dtypes in which rules compute and in which state is kept."""

from collections.abc import Iterable

import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Shaped

from ._types import AnyLeaf, Leaf, RealLeaf


def as_dtype(dtype: DTypeLike | None) -> jnp.dtype | None:
    """A field converter: a floating-point dtype, or `None`."""
    if dtype is None:
        return None
    dtype = jnp.dtype(dtype)
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise TypeError(f"expected a floating-point dtype, got {dtype}")
    return dtype


def compute_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype in which a rule computes for a parameter of `dtype`. It is at least
    float32: in narrower dtypes squares overflow and `1 - b2**t` is rounded to 0."""
    if jnp.issubdtype(dtype, jnp.complexfloating) or dtype == jnp.float64:
        return jnp.dtype(dtype)
    return jnp.dtype(jnp.float32)


def real_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype of the real part of a `dtype`."""
    return jnp.finfo(dtype).dtype


def widest_real_dtype(arrays: Iterable[AnyLeaf]) -> jnp.dtype:
    """The dtype for a number that concerns all `arrays`: the widest of their real
    compute dtypes, at least float32."""
    dtypes = [real_dtype(compute_dtype(x.dtype)) for x in arrays]
    return max([jnp.dtype(jnp.float32), *dtypes], key=lambda dtype: dtype.itemsize)


def widen(
    x: Shaped[Array, "*shape"], dtype: jnp.dtype | None = None
) -> Shaped[Array, "*shape"]:
    """`x` in the precision of `dtype`, by default of its own compute dtype. Integers
    and booleans stay as they are."""
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        return x
    dtype = compute_dtype(x.dtype) if dtype is None else dtype
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        return x.astype(dtype)
    return x.astype(real_dtype(dtype))


def kept_dtype(own: jnp.dtype, dtype: jnp.dtype | None) -> jnp.dtype:
    """The dtype in which the state of a parameter of the dtype `own` is kept: `dtype`
    if it is given, and otherwise the compute dtype. A complex parameter ignores a real
    `dtype`."""
    own = compute_dtype(own)
    if dtype is None or (
        jnp.issubdtype(own, jnp.complexfloating)
        and not jnp.issubdtype(dtype, jnp.complexfloating)
    ):
        return own
    return dtype


def zeros_like(param: Leaf, dtype: jnp.dtype | None = None) -> Leaf:
    """Zeros of the shape of `param`, to accumulate its gradients. `dtype` is an option
    such as `mu_dtype`."""
    return jnp.zeros_like(param, dtype=kept_dtype(param.dtype, dtype))


def real_zeros_like(param: Leaf) -> RealLeaf:
    """Real zeros of the shape of `param`, to accumulate magnitudes of its gradients."""
    return jnp.zeros_like(param, dtype=real_dtype(compute_dtype(param.dtype)))


def is_narrow(dtype: jnp.dtype) -> bool:
    """Whether this is bfloat16 or float16, in which a parameter loses small updates."""
    return jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits == 16
