"""The pair of running moments that the Adam family keeps."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from ._dtype import compute_dtype, real_dtype, zeros_like


class Moments(NamedTuple):
    """Running means of a parameter's gradient and of its square."""

    mu: Inexact[Array, "*shape"]
    nu: Float[Array, "*shape"]


def zero_moments(
    param: Inexact[Array, "*shape"], mu_dtype: jnp.dtype | None = None
) -> Moments:
    return Moments(
        mu=zeros_like(param, mu_dtype),
        nu=jnp.zeros_like(param, dtype=real_dtype(compute_dtype(param.dtype))),
    )
