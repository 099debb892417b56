"""The dtypes in which rules compute and state is kept."""

from collections.abc import Iterable

import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Shaped

from ._types import AnyLeaf, Leaf, RealLeaf


def as_dtype(dtype: DTypeLike | None) -> jnp.dtype | None:
    """`dtype` in the form in which an optimizer keeps an option."""
    if dtype is None:
        return None
    dtype = jnp.dtype(dtype)
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise TypeError(f"expected a floating-point dtype, got {dtype}")
    return dtype


def compute_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype in which a rule computes for a parameter of `dtype`: at least
    float32, so that small floats neither overflow nor lose the bias correction."""
    if jnp.issubdtype(dtype, jnp.complexfloating) or dtype == jnp.float64:
        return jnp.dtype(dtype)
    return jnp.dtype(jnp.float32)


def real_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype of the real part of a `dtype`."""
    return jnp.finfo(dtype).dtype


def widest_real_dtype(arrays: Iterable[AnyLeaf]) -> jnp.dtype:
    """The dtype for a number about all of `arrays`: the widest among their real
    compute dtypes and float32."""
    dtypes = [real_dtype(compute_dtype(x.dtype)) for x in arrays]
    return max([jnp.dtype(jnp.float32), *dtypes], key=lambda dtype: dtype.itemsize)


def widen(
    x: Shaped[Array, "*shape"], dtype: jnp.dtype | None = None
) -> Shaped[Array, "*shape"]:
    """`x` in the precision of `dtype`, by default its own compute dtype; integers and
    booleans as they are."""
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        return x
    dtype = compute_dtype(x.dtype) if dtype is None else dtype
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        return x.astype(dtype)
    return x.astype(real_dtype(dtype))


def kept_dtype(own: jnp.dtype, dtype: jnp.dtype | None) -> jnp.dtype:
    """The dtype in which state of a parameter of the dtype `own` is kept: `dtype` if it
    is given, which a complex parameter ignores if it is real, and the compute dtype
    otherwise."""
    own = compute_dtype(own)
    if dtype is None or (
        jnp.issubdtype(own, jnp.complexfloating)
        and not jnp.issubdtype(dtype, jnp.complexfloating)
    ):
        return own
    return dtype


def zeros_like(param: Leaf, dtype: jnp.dtype | None = None) -> Leaf:
    """Zeros to accumulate gradients of `param` in, of its `kept_dtype`."""
    return jnp.zeros_like(param, dtype=kept_dtype(param.dtype, dtype))


def real_zeros_like(param: Leaf) -> RealLeaf:
    """Zeros to accumulate magnitudes of gradients of `param` in."""
    return jnp.zeros_like(param, dtype=real_dtype(compute_dtype(param.dtype)))
