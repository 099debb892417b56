"""Both sides of a matrix: statistics of its rows and its columns, and their bases."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Float, Inexact, Int

from ._linalg import eigh, inverse_power, orthonormal_columns
from ._math import adjoint, ema, product
from ._matrix import in_batches, MatrixView


class Sides(NamedTuple):
    """One array for the rows and one for the columns of matrices; `None` for a side
    that is too long, or empty, which has the identity."""

    left: Array | None
    right: Array | None


def squares(view: MatrixView, dtype: jnp.dtype, limit: int) -> Sides:
    """Zeros to average outer products in, for sides of at most `limit`."""
    return _sides(lambda n: jnp.zeros((view.batch, n, n), dtype), view, limit)


def identities(view: MatrixView, dtype: jnp.dtype, limit: int) -> Sides:
    def identity(n: int) -> Inexact[Array, "batch n n"]:
        return jnp.tile(jnp.eye(n, dtype=dtype), (view.batch, 1, 1))

    return _sides(identity, view, limit)


def ones(view: MatrixView, dtype: jnp.dtype, limit: int) -> Sides:
    """A one for each row, and one for each column."""
    return _sides(lambda n: jnp.ones((view.batch, n), dtype), view, limit)


def _sides(
    make: Callable[[int], Inexact[Array, "..."]], view: MatrixView, limit: int
) -> Sides:
    return Sides(
        *(make(n) if 0 < n <= limit else None for n in (view.rows, view.columns))
    )


def means(old: Sides, new: Sides, decay: Float[Array, ""]) -> Sides:
    return jtu.tree_map(lambda mean, x: ema(mean, x, decay), old, new)


def outer_products(
    by_rows: Inexact[Array, "batch rows columns"],
    by_columns: Inexact[Array, "batch rows columns"],
    like: Sides,
) -> Sides:
    r"""$X X^*$ of the first and $X^* X$ of the second, on the sides that `like`
    has."""
    return Sides(
        None if like.left is None else product(by_rows, adjoint(by_rows)),
        None if like.right is None else product(adjoint(by_columns), by_columns),
    )


def rotated(
    x: Inexact[Array, "batch rows columns"], bases: Sides
) -> Inexact[Array, "batch rows columns"]:
    r"""$Q_L^* X Q_R$."""
    return multiplied(x, bases._replace(left=_adjoint_or_none(bases.left)))


def rotated_back(
    x: Inexact[Array, "batch rows columns"], bases: Sides
) -> Inexact[Array, "batch rows columns"]:
    r"""$Q_L X Q_R^*$."""
    return multiplied(x, bases._replace(right=_adjoint_or_none(bases.right)))


def multiplied(
    x: Inexact[Array, "batch rows columns"], sides: Sides
) -> Inexact[Array, "batch rows columns"]:
    r"""$L X R$."""
    if sides.left is not None:
        x = product(sides.left, x)
    return x if sides.right is None else product(x, sides.right)


def with_bases(
    states: list[Any],
    iterate: Callable[[list[Any]], list[Any]],
    count: Int[Array, ""],
    frequency: int,
) -> list[Any]:
    """`states` with the bases that they have after this update: eigenvectors of their
    factors after the first, those of `iterate(states)` made orthonormal after every
    `frequency`-th of the others, and what they had otherwise.

    Bases have no derivative: where eigenvalues meet, they do not move smoothly.
    """

    def started(states: list[Any]) -> list[Any]:
        bases = _in_batches(_eigenvectors, [x.factors for x in states], count)
        return [x._replace(bases=new) for x, new in zip(states, bases)]

    def turned(states: list[Any]) -> list[Any]:
        states = iterate(states)
        bases = _in_batches(_orthonormal_columns, [x.bases for x in states], count)
        return [x._replace(bases=new) for x, new in zip(states, bases)]

    # A branch for all of them, which in most steps costs nothing.
    due = (count - 1) % frequency == 0
    branch = jnp.where(count == 1, 2, jnp.where(due, 1, 0))
    return jax.lax.switch(branch, (lambda x: x, turned, started), states)


def inverse_powers(
    factors: Sequence[Sides],
    eps: Sequence[Float[Array, ""]],
    exponents: Sequence[Float[Array, ""]],
    count: Int[Array, ""],
) -> list[Sides]:
    r"""$(X + \varepsilon I)^{-p}$ of each factor."""
    return _in_batches(inverse_power, factors, count, eps, exponents)


def _eigenvectors(x: Inexact[Array, "batch n n"]) -> Inexact[Array, "batch n n"]:
    _, vectors = eigh(jax.lax.stop_gradient(x))
    return jnp.flip(vectors, axis=-1)


def _orthonormal_columns(
    x: Inexact[Array, "batch n n"],
) -> Inexact[Array, "batch n n"]:
    return orthonormal_columns(jax.lax.stop_gradient(x))


def _in_batches(
    function: Callable[..., Inexact[Array, "_ n n"]],
    sides: Sequence[Sides],
    count: Int[Array, ""],
    *scalars: Sequence[Float[Array, ""]],
) -> list[Sides]:
    """`function` of all sides of one size at once, whatever they belong to."""
    arrays, treedef = jtu.tree_flatten(list(sides))
    each = [
        [x for x, one in zip(column, sides) for _ in jtu.tree_leaves(one)]
        for column in scalars
    ]
    return treedef.unflatten(in_batches(function, arrays, count, *each))


def _adjoint_or_none(x: Array | None) -> Array | None:
    return None if x is None else adjoint(x)
