"""Which parameters are matrices, and how each is seen as one."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, TYPE_CHECKING, TypeAlias

import equinox as eqx
import jax.tree_util as jtu
from jaxtyping import Array

from .._tree import Parameters
from .._types import AnyLeaf, Matrix
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


MatricesLike: TypeAlias = (
    Callable[[str, Array], bool | str]
    | bool
    | str
    | Mapping
    | tuple
    | list
    | eqx.Module
)
"""What says which parameters are matrices: a function of `(path, array)` or a tree that
is a prefix of the model, giving `True` or `"matrix"`, `"stack"`, `False` or
`"fallback"`."""


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
    """How an array of this kind is seen as a batch of matrices. A vector is a matrix of
    one column."""
    axes = int(kind == "stack")
    rows, *columns = shape[axes:] or (1,)
    return MatrixView(shape, math.prod(shape[:axes]), rows, math.prod(columns))


def as_matrices(choice: Any) -> Matrices:
    return choice if isinstance(choice, Matrices) else Matrices(choice)


def default_matrices(path: str, array: AnyLeaf) -> str:
    """Arrays of two axes and more that have more than one row and column, and no
    "embed" in their path.

    A convolution's bias in Equinox has shape (out, 1, 1), which is one column and so a
    vector. Stacked biases are known by their name.
    """
    if array.ndim < 2 or "embed" in path.lower() or path.endswith("bias"):
        return "fallback"
    rows, columns = array.shape[0], math.prod(array.shape[1:])
    return "matrix" if min(rows, columns) > 1 else "fallback"


if TYPE_CHECKING:

    class MatricesField:
        """A field that is set to a choice of matrices. Inside a rule it is read as the
        kind of this parameter."""

        def __get__(self, instance: object, owner: Any = None) -> Any: ...
        def __set__(self, instance: object, value: MatricesLike) -> None: ...

else:
    MatricesField: TypeAlias = Matrices


def matrices_of(**options: Any) -> Any:
    """Declare a static field that says which parameters are matrices."""
    metadata = {"like": "MatricesLike"}
    options |= {"static": True, "metadata": metadata}
    return eqx.field(converter=as_matrices, **options)
