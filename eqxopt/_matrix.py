"""What a parameter is as a matrix, and matrices of one shape in one batch."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Inexact

from ._mask import AbstractSelector
from ._tree import Parameters


@jtu.register_static
@dataclasses.dataclass(frozen=True)
class MatrixView:
    """How an array is seen as a batch of matrices of `rows` outputs and `columns`
    inputs."""

    shape: tuple[int, ...]
    batch: int
    rows: int
    columns: int

    def matrices(
        self, array: Inexact[Array, "..."]
    ) -> Inexact[Array, "batch rows columns"]:
        return array.reshape(self.batch, self.rows, self.columns)

    def array(
        self, matrices: Inexact[Array, "batch rows columns"]
    ) -> Inexact[Array, "..."]:
        return matrices.reshape(self.shape)


class Matrices(AbstractSelector):
    """Which parameters are matrices: `True` or `"matrix"` for (out, in, ...), of which
    the axes after the first are flattened; `"stack"` for a batch of these along a
    leading axis; `False` or `"fallback"` for what is none."""

    def read(self, value: Any, what: str) -> str:
        if isinstance(value, bool):
            return "matrix" if value else "fallback"
        if isinstance(value, str) and value in ("matrix", "stack", "fallback"):
            return value
        raise TypeError(
            f"{what} must be True or 'matrix', 'stack', or False or 'fallback', not "
            f"{value!r}"
        )

    def views(self, parameters: Parameters, what: str) -> list[MatrixView | None]:
        """How each parameter is seen as a matrix, `None` where it is not."""
        views: list[MatrixView | None] = []
        for i, kind in enumerate(self.at(parameters, what)):
            shape = parameters.arrays[i].shape
            axes = int(kind == "stack")
            if kind == "fallback":
                views.append(None)
                continue
            if len(shape) < axes + 2:
                raise ValueError(
                    f"{what}: {parameters.path(i)} has shape {shape}, which cannot be "
                    f"a {kind}. Choose 'fallback' for it."
                )
            columns = math.prod(shape[axes + 1 :])
            views.append(
                MatrixView(shape, math.prod(shape[:axes]), shape[axes], columns)
            )
        return views


def as_matrices(choice: Any) -> Matrices:
    return choice if isinstance(choice, Matrices) else Matrices(choice)


def default_matrices(path: str, array: Inexact[Array, "..."]) -> str:
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
    function: Callable[[Inexact[Array, "_ r c"]], Inexact[Array, "_ r c"]],
    matrices: Sequence[Inexact[Array, "_ _ _"]],
) -> list[Inexact[Array, "_ _ _"]]:
    """`function` of each batch of matrices, all of one size and dtype at once.

    They come with at most as many rows as columns: `function` must not mind being
    given the transpose.
    """
    groups: dict[Any, list[int]] = {}
    for i, x in enumerate(matrices):
        groups.setdefault((*sorted(x.shape[1:]), str(x.dtype)), []).append(i)
    results = list(matrices)
    for members in groups.values():
        wide = [i for i in members if matrices[i].shape[1] <= matrices[i].shape[2]]
        tall = [i for i in members if matrices[i].shape[1] > matrices[i].shape[2]]
        # Those that have to be transposed are so together: one operation to compile.
        batches = [_join([matrices[i] for i in part]) for part in (wide, tall) if part]
        if tall:
            batches[-1] = jnp.swapaxes(batches[-1], 1, 2)
        result = function(_join(batches))
        split = sum(len(matrices[i]) for i in wide)
        for part, batch in ((wide, result[:split]), (tall, result[split:])):
            batch = jnp.swapaxes(batch, 1, 2) if part is tall else batch
            for i, x in zip(part, _split(batch, [len(matrices[i]) for i in part])):
                results[i] = x
    return results


def _join(batches: Sequence[Inexact[Array, "_ r c"]]) -> Inexact[Array, "_ r c"]:
    return batches[0] if len(batches) == 1 else jnp.concatenate(batches)


def _split(
    batch: Inexact[Array, "_ r c"], lengths: Sequence[int]
) -> list[Inexact[Array, "_ r c"]]:
    # Of flat rows, because slices of three axes take twice as long to compile.
    flat, parts, start = batch.reshape(len(batch), math.prod(batch.shape[1:])), [], 0
    for length in lengths:
        part = flat[start : start + length]
        parts.append(part.reshape(length, *batch.shape[1:]))
        start += length
    return parts
