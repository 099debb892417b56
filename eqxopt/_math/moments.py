"""The running moments that the Adam family keeps."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from .._dtype import compute_dtype, real_dtype, real_zeros_like, zeros_like
from .._types import AnyLeaf, FirstMoment, Leaf, Scalar, SecondMoment
from .small import debias


class Momentum(NamedTuple):
    """The running mean of a parameter's gradient."""

    mu: FirstMoment


class Moments(NamedTuple):
    """Running means of a parameter's gradient and of its square."""

    mu: FirstMoment
    nu: SecondMoment


class MeanAndVariance(NamedTuple):
    """The running mean of a parameter's gradient and its variance about that mean."""

    mu: FirstMoment
    s: SecondMoment


def zero_moments(param: Leaf, mu_dtype: jnp.dtype | None = None) -> Moments:
    return Moments(mu=zeros_like(param, mu_dtype), nu=real_zeros_like(param))


def reduced_zeros(param: AnyLeaf, axes: tuple[int, ...]) -> Float[Array, "..."]:
    """Zeros for a mean of the parameter's squares over `axes`."""
    # Reduce an array that depends on the parameter, also inside jit: then the remaining
    # axes are sharded like the parameter's.
    dtype = real_dtype(compute_dtype(param.dtype))
    zero = jnp.zeros((), dtype)
    return jnp.sum(jnp.where(jnp.isnan(param), zero, zero), axis=axes)


def debiased_mean(
    mu: Leaf, grad: Leaf, b1: Scalar, t: Scalar, *, nesterov: bool
) -> Leaf:
    r"""$\hat m_t$, the running mean $m_t$ with its bias corrected. With `nesterov` it
    looks one step ahead."""
    if nesterov:
        # Correct the two weights, which are scalars, instead of the two arrays.
        return debias(b1, b1, t + 1) * mu + debias(1 - b1, b1, t) * grad
    return debias(mu, b1, t)
