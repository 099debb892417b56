"""Symmetric matrices that are known by their products: a low-rank approximation, and
conjugate gradients that it preconditions."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .._compile.once import all_finite
from .._math import eigh, multiplied, norm, svd
from .._sharding import tied_together
from .._types import Scalar, Vector


Linear: TypeAlias = Callable[[Vector], Vector]


class Sketch(NamedTuple):
    r"""$U \Lambda U^\top$, positive semidefinite and of low rank."""

    vectors: Float[Array, "n r"]
    r"""$U$, of orthonormal columns."""
    values: Float[Array, " r"]
    r"""The diagonal of $\Lambda$, from the largest to the smallest."""


def nystrom(multiply: Linear, test: Float[Array, "n r"]) -> Sketch:
    r"""The approximation of $H$ by Nyström, $H \Omega (\Omega^\top H \Omega)^+ (H
    \Omega)^\top$, for an orthonormal test matrix $\Omega$.

    It costs one product for each column. The derivative counts as 0.
    """
    rank = test.shape[1]
    images = jax.lax.stop_gradient(jax.lax.map(multiply, test.T).T)
    images = jnp.where(all_finite([images]), images, 0)
    core = multiplied(test.T, images)
    curvatures, axes = (x[0] for x in eigh((core + core.T)[None] / 2))
    # The formula is for a positive semidefinite H. In an indefinite one positive and
    # negative curvature may cancel, and what is left says nothing. So leave out what
    # is smaller than the most negative curvature, and what is lost in rounding.
    least = rank * jnp.finfo(test.dtype).eps * jnp.max(jnp.abs(curvatures))
    is_kept = curvatures > jnp.maximum(least, -jnp.min(curvatures))
    scales = jnp.where(is_kept, jnp.where(is_kept, curvatures, 1) ** -0.5, 0)
    root = multiplied(images, axes * scales[None])
    vectors, values, _ = (x[0] for x in svd(root[None]))
    return Sketch(vectors, jnp.square(values))


def preconditioner(sketch: Sketch, damping: Scalar) -> Linear:
    r"""The inverse of $(U (\Lambda + \mu I) U^\top) / (\lambda_r + \mu) + I - U
    U^\top$."""
    vectors, values = sketch
    rank = values.size
    if rank == 0:
        return lambda x: x
    # A smaller quotient would be lost in rounding, and 0 would not be invertible.
    least = rank * jnp.finfo(values.dtype).eps * values[0]
    low = jnp.maximum(values[-1] + damping, least)
    is_known = low > 0
    weights = low / jnp.where(is_known, jnp.maximum(values + damping, low), 1)
    removed = jnp.where(is_known, 1 - weights, 0)
    return lambda x: (
        x - multiplied(vectors, removed * multiplied(jnp.transpose(vectors), x))
    )


class _Progress(NamedTuple):
    x: Vector
    residual: Vector
    direction: Vector
    product: Scalar
    """That of the residual and the preconditioned residual."""
    steps: Int[Array, ""]
    is_done: Bool[Array, ""]


def truncated_cg(
    multiply: Linear, b: Vector, precondition: Linear, rtol: Scalar, max_steps: int
) -> tuple[Vector, Int[Array, ""]]:
    r"""An approximate solution of $A x = b$ by preconditioned conjugate gradients from
    0, and the number of products with $A$.

    They end at a residual of `rtol` times the norm of $b$, and where a direction $p$
    has $p^\top A p \le 0$. If this is the first, $x$ is as if it were $|p^\top A p|$,
    or $p$ itself if that is 0 too. Always $x^\top b > 0$ unless $b = 0$.
    """
    eps = jnp.finfo(b.dtype).eps
    allowed = jnp.maximum(rtol, eps) * norm(b)

    def advance(state: _Progress) -> _Progress:
        x, residual, direction, product, steps, _ = state
        image = multiply(direction)
        curvature = jnp.sum(direction * image)
        lost = eps * norm(direction) * norm(image)
        is_positive, is_negative = curvature > lost, curvature < -lost
        length = product / jnp.where(
            is_positive | is_negative, jnp.abs(curvature), product
        )
        length = jnp.where(is_positive | (steps == 0), length, 0)
        residual = residual - length * image
        corrected = precondition(residual)
        new = jnp.sum(residual * corrected)
        steps = steps + 1
        is_done = ~is_positive | ~(new > 0) | (norm(residual) <= allowed)
        return _Progress(
            x=x + length * direction,
            residual=residual,
            direction=corrected + new / product * direction,
            product=new,
            steps=steps,
            is_done=is_done | (steps >= max_steps),
        )

    corrected = precondition(b)
    product = jnp.sum(b * corrected)
    state = _Progress(
        x=jnp.zeros_like(b),
        residual=b,
        direction=corrected,
        product=product,
        steps=jnp.zeros((), jnp.int32),
        is_done=~(product > 0),
    )
    state = tied_together(state, jax.eval_shape(multiply, b), rtol)
    state = jax.lax.while_loop(lambda state: ~state.is_done, advance, state)
    return state.x, state.steps
