"""What a parameter is as a matrix, and matrices of one shape in one batch."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Float, Inexact, Int

from .._compile.opaque import hidden
from .._tree import Parameters
from .._types import AnyLeaf, Matrix, Scalar
from .selectors import AbstractSelector


@jtu.register_static
@dataclasses.dataclass(frozen=True)
class MatrixView:
    """How an array is seen as a batch of matrices of `rows` outputs and `columns`
    inputs."""

    shape: tuple[int, ...]
    batch: int
    rows: int
    columns: int

    def matrices(self, array: AnyLeaf) -> Matrix:
        return array.reshape(self.batch, self.rows, self.columns)

    def array(self, matrices: Matrix) -> AnyLeaf:
        return matrices.reshape(self.shape)


class Matrices(AbstractSelector):
    """Which parameters are matrices: `True` or `"matrix"` for (out, in, ...), of which
    the axes after the first are flattened; `"stack"` for a batch of these along a
    leading axis; `False` or `"fallback"` for what is none."""

    def read(self, value: Any, what: str, array: Array | None) -> str:
        kind = value
        if isinstance(value, bool):
            kind = "matrix" if value else "fallback"
        if not isinstance(kind, str) or kind not in ("matrix", "stack", "fallback"):
            raise TypeError(
                f"{what} must be True or 'matrix', 'stack', or False or 'fallback', "
                f"not {value!r}"
            )
        least = {"matrix": 2, "stack": 3, "fallback": 0}[kind]
        if array is not None and array.ndim < least:
            raise ValueError(
                f"{what} has shape {array.shape}, which cannot be a {kind}. Choose "
                "False for it."
            )
        return kind

    def views(self, parameters: Parameters, what: str) -> list[MatrixView | None]:
        """How each parameter is seen as a matrix, `None` where it is not."""
        return [
            None if kind == "fallback" else view_of(array.shape, kind)
            for kind, array in zip(self.at(parameters, what), parameters.arrays)
        ]


def view_of(shape: tuple[int, ...], kind: str) -> MatrixView:
    """How an array is seen as what `Matrices` says of it; what is no matrix as one, of
    which a vector is the only column."""
    axes = int(kind == "stack")
    rows, *columns = shape[axes:] or (1,)
    return MatrixView(shape, math.prod(shape[:axes]), rows, math.prod(columns))


def transposed_if(
    condition: bool, x: Inexact[Array, "batch r c"]
) -> Inexact[Array, "batch _ _"]:
    return jnp.swapaxes(x, -2, -1) if condition else x


def as_matrices(choice: Any) -> Matrices:
    return choice if isinstance(choice, Matrices) else Matrices(choice)


def default_matrices(path: str, array: AnyLeaf) -> str:
    """Arrays of two axes and more that have more than one row and column, and no
    "embed" in their path.

    A convolution's bias in Equinox has shape (out, 1, 1): its one column makes it a
    vector. By the name `bias` stacked biases are known.
    """
    if array.ndim < 2 or "embed" in path.lower() or path.endswith("bias"):
        return "fallback"
    rows, columns = array.shape[0], math.prod(array.shape[1:])
    return "matrix" if min(rows, columns) > 1 else "fallback"


def in_batches(
    function: Callable[..., Inexact[Array, "_ r c"]],
    matrices: Sequence[Inexact[Array, "_ _ _"]],
    count: Int[Array, ""],
    *scalars: Sequence[Scalar],
) -> list[Inexact[Array, "_ _ _"]]:
    """`function` of each batch of matrices and its `scalars`, all of one shape and
    dtype at once. `count` is that of the updates."""
    groups: dict[Any, list[int]] = {}
    for i, x in enumerate(matrices):
        groups.setdefault((x.shape[1:], str(x.dtype)), []).append(i)
    results = list(matrices)
    for members in groups.values():
        lengths = [len(matrices[i]) for i in members]
        columns = [_column([column[i] for i in members], lengths) for column in scalars]
        result = function(joined([matrices[i] for i in members]), *columns)
        for i, part in zip(members, parted(result, lengths, count)):
            results[i] = part
    return results


def joined(batches: Sequence[Inexact[Array, "_ ..."]]) -> Inexact[Array, "_ ..."]:
    """One batch of all."""
    return batches[0] if len(batches) == 1 else jnp.concatenate(batches)


def _column(
    scalars: Sequence[Scalar], lengths: Sequence[int]
) -> Float[Array, "#batch 1 1"]:
    """Each scalar as often as its length says, beside a batch."""
    if len({id(x) for x in scalars}) == 1:  # usually all share one
        return scalars[0][None, None, None]
    return jnp.concatenate([jnp.full((n, 1, 1), x) for x, n in zip(scalars, lengths)])


def parted(
    batch: Inexact[Array, "_ ..."], lengths: Sequence[int], count: Int[Array, ""]
) -> list[Inexact[Array, "_ ..."]]:
    """What `joined` made one, `count` being that of the updates."""
    if len(lengths) == 1:
        return [batch]
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    return [
        jax.lax.dynamic_slice_in_dim(batch, place, length)
        for place, length in zip(hidden(starts, count), lengths)
    ]
