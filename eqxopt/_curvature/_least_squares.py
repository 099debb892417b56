"""Residuals, their Jacobian, and least squares with damping."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._fields import word
from .._math import (
    as_arrays,
    as_vector,
    cholesky_solution,
    eigh,
    multiplied,
    size_as_vector,
)
from .._sharding import cond, tied
from .._tree import Parameters
from .._types import Scalar, Vector


Residuals = Float[Array, " n"]
Parametric = Float[Array, " p"]  # what has an entry for each parameter
Dense = Float[Array, "rows columns"]
Mode = Literal["auto", "forward", "reverse"]

# Rows or columns of a Jacobian that are computed together: all at once would take as
# many times the memory of one evaluation.
_TOGETHER = 128


def mode_option() -> Any:
    """A field for the mode in which a Jacobian is computed."""
    return word("jacobian", "auto", "forward", "reverse", default="auto", kw_only=True)


class Solver(NamedTuple):
    """How a system is solved."""

    mode: Mode
    dense_up_to: int
    cg_steps: int
    cg_rtol: Any  # a scalar, which annotations in JAX do not allow for


class Jacobian(NamedTuple):
    """The derivatives of $n$ residuals by $p$ parameters."""

    n: int
    p: int
    matrix: Dense | None
    """All of them, unless they are too many."""
    times: Callable[[Parametric], Residuals]
    r"""The product $J x$."""
    transposed_times: Callable[[Residuals], Parametric]
    r"""The product $J^\top y$."""

    def with_columns(self, factors: Parametric) -> "Jacobian":
        """The one whose columns are multiplied by factors."""
        matrix = self.matrix
        return self._replace(
            matrix=None if matrix is None else matrix * factors[None],
            times=lambda x: self.times(factors * x),
            transposed_times=lambda y: factors * self.transposed_times(y),
        )


def linearized(
    residual_fn: Callable[[Any], Residuals],
    parameters: Parameters,
    dtype: jnp.dtype,
    solver: Solver,
) -> tuple[Residuals, Jacobian]:
    """The residuals at the parameters, and their derivatives there."""
    likes = parameters.arrays
    # All of the model's arrays are exact in `dtype`.
    at = as_vector(likes, dtype)

    def residuals(vector: Parametric) -> Residuals:
        arrays = [x.astype(y.dtype) for x, y in zip(as_arrays(vector, likes), likes)]
        return residual_fn(parameters.model(arrays)).astype(dtype)

    n, p = jax.eval_shape(residuals, at).size, size_as_vector(likes)
    # A function may have one kind of derivative only, so both kinds are avoided.
    forward = solver.mode == "forward" or (solver.mode == "auto" and n >= p)
    if forward:
        r, push = jax.linearize(residuals, at)
        pull = _transposed(push, at)
    else:
        r, vjp = jax.vjp(residuals, at)
        pull = lambda y: vjp(y)[0]
        push = _transposed(pull, r)
    if n * p > solver.dense_up_to:
        return r, Jacobian(n, p, None, push, pull)
    derivative, like, size = (push, at, p) if forward else (pull, r, n)
    units = tied(jnp.eye(size, dtype=dtype), like)
    matrix = jax.lax.map(derivative, units, batch_size=_TOGETHER)
    matrix = matrix.T if forward else matrix
    times = lambda x: multiplied(matrix, x)
    transposed_times = lambda y: multiplied(matrix.T, y)
    return r, Jacobian(n, p, matrix, times, transposed_times)


def _transposed(
    linear: Callable[[Vector], Vector], like: Vector
) -> Callable[[Vector], Vector]:
    return lambda y: jax.linear_transpose(linear, like)(y)[0]


def damped_solution(
    jacobian: Jacobian, r: Residuals, damping: Scalar, solver: Solver
) -> Parametric:
    r"""$(J^\top J + \lambda I)^{-1} J^\top r = J^\top (J J^\top + \lambda I)^{-1} r$,
    by the smaller of the two systems."""
    if jacobian.n < jacobian.p:
        return jacobian.transposed_times(_solved(jacobian, True, r, damping, solver))
    b = jacobian.transposed_times(r)
    return _solved(jacobian, False, b, damping, solver)


def _solved(
    jacobian: Jacobian, by_rows: bool, b: Vector, damping: Scalar, solver: Solver
) -> Vector:
    r"""The solution with $J J^\top + \lambda I$ for `by_rows`, else $J^\top J + \lambda
    I$."""
    if b.size == 0:
        return b
    if jacobian.matrix is None:
        first, second = jacobian.times, jacobian.transposed_times
        first, second = (second, first) if by_rows else (first, second)
        product = lambda x: second(first(x)) + damping * x
        return jax.scipy.sparse.linalg.cg(
            product, b, tol=solver.cg_rtol, maxiter=solver.cg_steps
        )[0]
    factor = jacobian.matrix if by_rows else jacobian.matrix.T
    gram = multiplied(factor, factor.T)
    system = gram + damping * jnp.eye(b.size, dtype=b.dtype)
    known = jax.lax.stop_gradient(system)
    # Its derivative is another solution with the same system, and not the derivative of
    # a decomposition.
    return jax.lax.custom_linear_solve(
        lambda x: multiplied(system, x),
        b,
        lambda _, b: _by_decomposition(known, b),
        symmetric=True,
    )


def _by_decomposition(system: Dense, b: Vector) -> Vector:
    lower, solution = (x[0] for x in cholesky_solution(system[None], b[None]))
    # Compare a pivot with its own entry: its digits do not depend on the units of the
    # parameters. Where all digits are lost, the solution may be finite by chance.
    pivots = jnp.square(jnp.diagonal(lower))
    is_sound = jnp.all(pivots > _rounding(system) * jnp.diagonal(system))
    return cond(
        is_sound & jnp.all(jnp.isfinite(solution)),
        lambda system, b, solution: solution,
        lambda system, b, solution: _least_norm(system, b),
        system,
        b,
        solution,
    )


def _least_norm(system: Dense, b: Vector) -> Vector:
    """The shortest solution of a singular system."""
    values, vectors = (x[0] for x in eigh(system[None]))
    is_kept = values > _rounding(system) * jnp.max(values)
    inverse = jnp.where(is_kept, 1 / jnp.where(is_kept, values, 1), 0)
    return multiplied(vectors, inverse * multiplied(vectors.T, b))


def _rounding(system: Dense) -> float:
    return len(system) * float(jnp.finfo(system.dtype).eps)
