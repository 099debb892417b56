"""What a user gives as data or as a batch, read as arrays of numbers."""

from typing import Any

import jax
import jax.tree_util as jtu
import numpy as np
from jaxtyping import PyTree


# Kinds of NumPy dtypes that are no numbers: strings, objects, times.
_NO_NUMBERS = "OSUMm"


def readable(caller: str, tree: PyTree, what: str) -> PyTree:
    """`tree` with everything in it as an array of numbers. A list is a tuple."""
    tree = tuple(tree) if type(tree) is list else tree
    leaves, treedef = jtu.tree_flatten(tree)
    arrays = []
    for i, x in enumerate(leaves):
        try:
            arrays.append(_as_numbers(x))
        except (TypeError, ValueError, RuntimeError) as error:
            path, _ = jtu.tree_leaves_with_path(tree)[i]
            raise TypeError(
                f"{caller}: the {what} has a `{type(x).__name__}` at "
                f"{jtu.keystr(path) or 'its root'}, which NumPy cannot read as an "
                f"array of numbers: {error}"
            ) from None
    return treedef.unflatten(arrays)


def _as_numbers(x: Any) -> Any:
    if isinstance(x, jax.Array):
        return x
    array = np.asarray(x)
    if array.dtype.kind in _NO_NUMBERS:
        raise TypeError(f"it becomes one of dtype {array.dtype}")
    # Files may have the bytes of numbers in the other order.
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def row_count(caller: str, data: PyTree) -> int:
    leaves = jtu.tree_leaves_with_path(data)
    if not leaves:
        raise ValueError(f"{caller}: there is no array in the data")
    (first_path, first), *_ = leaves
    for path, x in leaves:
        if x.ndim == 0:
            raise ValueError(
                f"{caller}: the data at {jtu.keystr(path) or 'its root'} is a single "
                "number; its first axis should be the rows"
            )
        if x.shape[:1] != first.shape[:1]:
            raise ValueError(
                f"{caller}: the data at {jtu.keystr(path)} has shape {x.shape}, but at "
                f"{jtu.keystr(first_path)} {first.shape}; their first axes are the rows"
            )
    return first.shape[0]


def nbytes(batch: PyTree) -> int:
    return sum(x.size * x.dtype.itemsize for x in jtu.tree_leaves(batch))
