"""Both sides of a matrix: statistics of its rows and its columns, and their bases."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Inexact, Int

from .._abstract.optimizer import count_of
from .._abstract.together import decayed_step, together
from .._compile.once import once_per_shape
from .._fields import MatrixView
from .._math import adjoint, eigh, ema, no_update, orthonormal_columns, product
from .._sharding import gathered, sharded_like
from .._types import AnyLeaf, Leaf, Matrix, Scalar


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


def _sides(make: Callable[[int], AnyLeaf], view: MatrixView, limit: int) -> Sides:
    return Sides(
        *(make(n) if 0 < n <= limit else None for n in (view.rows, view.columns))
    )


def means(old: Sides, new: Sides, decay: Scalar) -> Sides:
    return jtu.tree_map(lambda mean, x: ema(mean, x, decay), old, new)


def outer_products(by_rows: Matrix, by_columns: Matrix, like: Sides) -> Sides:
    r"""$X X^*$ of the first and $X^* X$ of the second, on the sides that `like`
    has."""
    return Sides(
        None if like.left is None else product(by_rows, adjoint(by_rows)),
        None if like.right is None else product(adjoint(by_columns), by_columns),
    )


def rotated(x: Matrix, bases: Sides) -> Matrix:
    r"""$Q_L^* X Q_R$."""
    return multiplied(x, bases._replace(left=_adjoint_or_none(bases.left)))


def rotated_back(x: Matrix, bases: Sides) -> Matrix:
    r"""$Q_L X Q_R^*$."""
    return multiplied(x, bases._replace(right=_adjoint_or_none(bases.right)))


def multiplied(x: Matrix, sides: Sides) -> Matrix:
    r"""$L X R$."""
    if sides.left is not None:
        x = product(sides.left, x)
    return x if sides.right is None else product(x, sides.right)


@once_per_shape
def whole(grad: Leaf, state: Any, view: MatrixView) -> tuple[Matrix, Any]:
    """The gradient and the moments in a state, `mu` and perhaps `nu`, as matrices,
    whole on every device."""
    as_matrices = lambda x: view.matrices(gathered(x))
    state = _with_moments(as_matrices, state)
    return as_matrices(grad).astype(state.mu.dtype), state


@once_per_shape
def laid_out(state: Any, param: Leaf, view: MatrixView) -> Any:
    """The state of a parameter with moments that lie as it does."""
    return _with_moments(lambda x: sharded_like(view.array(x), param), state)


def _with_moments(function: Callable[[Array], Array], state: Any) -> Any:
    moments = {name: getattr(state, name, None) for name in ("mu", "nu")}
    return state._replace(
        **{name: function(x) for name, x in moments.items() if x is not None}
    )


def rotated_updates(
    optimizer: Any,
    step: Callable[..., tuple[Inexact[Array, "_ _ _"], dict[str, Any]]],
    turn: Callable[[Any, Any], dict[str, Any]],
    rules: Sequence[Any],
    grads: Sequence[AnyLeaf],
    params: Sequence[AnyLeaf],
    states: Sequence[Any],
    views: Sequence[MatrixView],
) -> tuple[list[AnyLeaf], list[Any]]:
    """The updates and next states of an optimizer that goes by eigenbases of the sides.

    `step(count, rule, (grad, state))` gives the step of matrices and what it changes in
    their state. The bases are eigenvectors of the factors after the first update, which
    moves no parameter; they are what `turn(rule, state)` gives after every
    `precondition_frequency`-th of the others; and otherwise they stay.
    """
    count = count_of(optimizer)
    pairs = [whole(*each) for each in zip(grads, states, views)]
    made = together(functools.partial(step, count), rules, pairs, count)
    new_states = [old._replace(**new) for (_, old), (_, new) in zip(pairs, made)]

    def changed(function: Callable[[Any, Any], dict[str, Any]]) -> Callable[..., Any]:
        def branch(states: list[Any]) -> list[Any]:
            changes = together(function, rules, states, count)
            return [x._replace(**new) for x, new in zip(states, changes)]

        return branch

    # A branch for all of them, which in most steps costs nothing.
    due = (count - 1) % optimizer.precondition_frequency == 0
    branch = jnp.where(count == 1, 2, jnp.where(due, 1, 0))
    branches = (lambda states: states, changed(turn), changed(_start))
    new_states = jax.lax.switch(branch, branches, new_states)
    updates = [
        _after_the_first(count, rule, matrices, param, view)
        for rule, (matrices, _), param, view in zip(rules, made, params, views)
    ]
    return updates, [laid_out(*each) for each in zip(new_states, params, views)]


@once_per_shape
def _after_the_first(
    count: Int[Array, ""], rule: Any, matrices: Matrix, param: Leaf, view: MatrixView
) -> Leaf:
    update = decayed_step(rule, matrices, param, view)
    return jnp.where(count == 1, no_update(update), update)


def _start(rule: Any, state: Any) -> dict[str, Any]:
    del rule
    return {"bases": jtu.tree_map(_eigenvectors, state.factors)}


def _eigenvectors(x: Inexact[Array, "batch n n"]) -> Inexact[Array, "batch n n"]:
    """Those of the largest eigenvalues first, and without a derivative: where
    eigenvalues meet, eigenvectors do not move smoothly."""
    return jnp.flip(eigh(jax.lax.stop_gradient(x))[1], axis=-1)


def orthonormal(sides: Sides) -> Sides:
    """Of the columns of each side, orthonormal ones, without a derivative."""
    return jtu.tree_map(lambda x: orthonormal_columns(jax.lax.stop_gradient(x)), sides)


def _adjoint_or_none(x: Array | None) -> Array | None:
    return None if x is None else adjoint(x)
