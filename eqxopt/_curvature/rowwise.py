"""Functions of a model and a row of data, with a Jacobian that is made row by row."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jax.custom_derivatives import SymbolicZero
from jaxtyping import PyTree

from .._dtype import widest_real_dtype
from .._math import as_arrays, as_vector
from .._sharding import tied
from .._tree import fill, Parameters
from .._types import AnyLeaf, Vector


Arrays = Sequence[AnyLeaf]


def rowwise(function: Callable[..., Any]) -> Callable[..., Any]:
    """Residuals of many rows of data from those of one: `rowwise(function)(model,
    *rows)` is `function(model, *row)` for every row.

    It gives what `jax.vmap` does, and tells [`eqxopt.GaussNewton`][] and
    [`eqxopt.LevenbergMarquardt`][] that the residuals of a row depend on no other row.
    The derivatives of each row are then computed from this row alone, while otherwise
    every row or column of the Jacobian takes an evaluation of all residuals. For
    networks of a thousand parameters on a thousand points this is what most of the time
    goes to.

    **Arguments:**

    - `function`: called as `function(model, *row)`, it gives a tree of arrays, usually
        one number. It must be differentiable in reverse mode. What derivatives are
        taken of must be in its arguments, and not in its closure.

    **Returns:** a function of the model and arrays, whose first axes are the rows.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp, eqxopt
        >>> curve = eqxopt.rowwise(lambda p, x, y: p[0] * jnp.exp(-p[1] * x) - y)
        >>> x, y = jnp.array([0.0, 1.0, 2.0]), jnp.array([2.0, 0.736, 0.271])
        >>> step = eqxopt.make_step(lambda p: curve(p, x, y), residuals=True)
        >>> p = jnp.array([1.0, 0.5])
        >>> opt = eqxopt.LevenbergMarquardt().init(p)
        >>> for _ in range(8):
        ...     p, opt, loss = step(p, opt)
        >>> print(p.round(2))
        [2. 1.]

        ```
    """

    def every_row(model: PyTree, *rows: PyTree) -> PyTree:
        parameters = Parameters(model)

        def mapped(arrays: Arrays, rows: PyTree) -> PyTree:
            known = parameters.model(arrays)
            return jax.vmap(lambda row: function(known, *row))(rows)

        def rule(primals: Any, tangents: Any) -> tuple[PyTree, PyTree]:
            arrays, rows = primals
            changes, row_changes = tangents
            if not all(map(_is_zero, jtu.tree_leaves(row_changes, is_leaf=_is_zero))):
                whole = jtu.tree_map(_instantiated, tangents, is_leaf=_is_zero)
                return jax.jvp(mapped, primals, whole)
            of_row = lambda arrays, row: function(parameters.model(arrays), *row)
            return each(arrays, rows), _change(of_row, arrays, rows, changes)

        each = jax.custom_jvp(mapped)
        each.defjvp(rule, symbolic_zeros=True)
        return each(parameters.arrays, rows)

    return every_row


def _change(
    of_row: Callable[..., PyTree], arrays: Arrays, rows: PyTree, changes: Sequence[Any]
) -> PyTree:
    """How all rows change with `changes` of the arrays, some of which are symbolic
    zeros: the product of the Jacobian of each row."""
    moves = [not _is_zero(x) for x in changes]
    only = lambda xs: [x for x, own in zip(xs, moves) if own]
    moving = only(arrays)
    dtype = widest_real_dtype(moving)

    def derivatives(row: PyTree) -> tuple[Any, Any]:
        def outputs(vector: Vector) -> Any:
            filled = list(arrays)
            own = as_arrays(vector, moving)
            fill(filled, moves, [x.astype(y.dtype) for x, y in zip(own, moving)])
            out = of_row(filled, row)
            return as_vector(jtu.tree_leaves(out), dtype), out

        vector = as_vector(moving, dtype)
        values, pull, out = jax.vjp(outputs, vector, has_aux=True)
        units = tied(jnp.eye(values.size, dtype=dtype), values)
        return jax.vmap(lambda unit: pull(unit)[0])(units), out

    jacobians, out = jax.vmap(derivatives)(rows)
    change = jnp.einsum(
        "nkp,p->nk",
        jacobians,
        as_vector(only(changes), dtype),
        precision=jax.lax.Precision.HIGHEST,
    )
    likes, structure = jtu.tree_flatten(out)

    def as_outputs(change: Vector, *likes: AnyLeaf) -> PyTree:
        parts = as_arrays(change, likes)
        return structure.unflatten([x.astype(y.dtype) for x, y in zip(parts, likes)])

    return jax.vmap(as_outputs)(change, *likes)


def _is_zero(x: Any) -> bool:
    return isinstance(x, SymbolicZero)


def _instantiated(x: Any) -> Any:
    return jnp.zeros(x.aval.shape, x.aval.dtype) if _is_zero(x) else x
