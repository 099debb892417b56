"""Decompositions of matrices in batches, and negative powers of positive ones."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from .._types import AnyLeaf
from .small import adjoint, product


def one_by_one(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of a matrix, or of several, for batches. On CPUs it sees one matrix
    after another, also under `jax.vmap`.

    There the threads of XLA that decompose a batch wait for others of the same pool,
    and two batches at once can wait for each other for ever: `eigh` of six batches did,
    of 8 to 72 rows, jax 0.10.2 on two cores, November 2026, within 200 calls. One after
    another is faster, too: 0.23 s for `eigh` of 16 matrices of 128 × 128, and 0.58 s in
    a batch.
    """
    alone = jax.custom_batching.sequential_vmap(function)

    @jax.custom_jvp
    def of_one(*args: AnyLeaf) -> Any:
        return alone(*args)

    # What is mapped one by one has no derivative of its own in reverse.
    of_one.defjvp(lambda primals, tangents: jax.jvp(function, primals, tangents))

    def of_batch(*args: AnyLeaf) -> Any:
        return jax.lax.platform_dependent(
            *args,
            cpu=lambda *args: jax.lax.map(lambda x: of_one(*x), args),
            default=jax.vmap(function),
        )

    return of_batch


@one_by_one
def cholesky_solution(
    system: Inexact[Array, "n n"], b: Inexact[Array, " n"]
) -> tuple[Inexact[Array, "n n"], Inexact[Array, " n"]]:
    """The lower factors of positive definite matrices, and the solutions, of a
    batch."""
    lower = jnp.linalg.cholesky(system)
    return lower, jax.scipy.linalg.cho_solve((lower, True), b)


@one_by_one
def eigh(x: Inexact[Array, "n n"]) -> tuple[Float[Array, " n"], Inexact[Array, "n n"]]:
    """Eigenvalues, in ascending order, and eigenvectors, of a batch."""
    # Not as a named tuple, which branches for platforms do not return.
    return tuple(jnp.linalg.eigh(x))


@one_by_one
def orthonormal_columns(x: Inexact[Array, "n k"]) -> Inexact[Array, "n k"]:
    """The columns of `x` made orthonormal in their order, of a batch: the first k span
    the same space as the first k of `x`."""
    return jnp.linalg.qr(x)[0]


@one_by_one
def svd(
    x: Inexact[Array, "r c"],
) -> tuple[Inexact[Array, "r k"], Float[Array, " k"], Inexact[Array, "k c"]]:
    """The thin singular value decomposition, of a batch."""
    return tuple(jnp.linalg.svd(x, full_matrices=False))


@one_by_one
def adjoint_solve(
    upper: Inexact[Array, "n n"], x: Inexact[Array, "n c"]
) -> Inexact[Array, "n c"]:
    """The inverse of the adjoint of an upper triangular matrix, times `x`, of a
    batch."""
    return jax.lax.linalg.triangular_solve(
        upper, x, left_side=True, transpose_a=True, conjugate_a=True
    )


@jax.custom_jvp
def inverse_power(
    x: Inexact[Array, "batch n n"],
    eps: Float[Array, "..."],
    exponent: Float[Array, "..."],
) -> Inexact[Array, "batch n n"]:
    r"""$(X + \varepsilon I)^{-p}$, in which eigenvalues of $X$ that only rounding makes
    negative count as 0.

    $\varepsilon$ and $p$ are scalars, or have the shape (batch, 1, 1). The power moves
    smoothly with $X$, also where eigenvalues meet and eigenvectors do not.
    """
    values, vectors = _decomposed(x, eps)
    return _composed(values**-exponent, vectors)


@inverse_power.defjvp
def _inverse_power_jvp(primals, tangents):
    # The formula of Daleckii and Krein: in the eigenbasis each entry of the tangent is
    # multiplied by a slope between two eigenvalues.
    (x, eps, exponent), (x_dot, eps_dot, exponent_dot) = primals, tangents
    values, vectors = _decomposed(x, eps)
    powers = values**-exponent
    inner = product(adjoint(vectors), product(x_dot, vectors))
    identity = jnp.eye(x.shape[-1], dtype=values.dtype)[None]
    inner = inner + (eps_dot * identity).astype(x.dtype)
    by_exponent = -jnp.log(values) * powers * identity * exponent_dot
    inner = _slopes(values, exponent).astype(x.dtype) * inner
    inner = inner + by_exponent.astype(x.dtype)
    new = product(product(vectors, inner), adjoint(vectors))
    return _composed(powers, vectors), new


def _decomposed(
    x: Inexact[Array, "batch n n"], eps: Float[Array, "..."]
) -> tuple[Float[Array, "batch 1 n"], Inexact[Array, "batch n n"]]:
    values, vectors = eigh(x)
    return jnp.maximum(values, 0)[:, None] + eps, vectors


def _composed(
    values: Float[Array, "batch 1 n"], vectors: Inexact[Array, "batch n n"]
) -> Inexact[Array, "batch n n"]:
    return product(vectors * values.astype(vectors.dtype), adjoint(vectors))


def _slopes(
    values: Float[Array, "batch 1 n"], exponent: Float[Array, "..."]
) -> Float[Array, "batch n n"]:
    r"""$(\lambda_i^{-p} - \lambda_j^{-p}) / (\lambda_i - \lambda_j)$, which where both
    are equal is the derivative."""
    low = jnp.minimum(adjoint(values), values)
    high = jnp.maximum(adjoint(values), values)
    # Without the cancellation between powers of eigenvalues that are close.
    ratio = (high - low) / low
    same = ratio == 0
    apart = jnp.expm1(-exponent * jnp.log1p(ratio)) / jnp.where(same, 1, ratio)
    return jnp.where(same, -exponent, apart) * low ** (-exponent - 1)
