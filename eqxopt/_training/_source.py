"""From what a user gives as batches to where these come from."""

import zlib
from collections.abc import Iterable, Sized
from typing import Any

import equinox as eqx
import jax
import jax.tree_util as jtu
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import PRNGKeyArray, PyTree

from ._batches import InMemory, Iterated, Repeated
from ._peers import ALONE, Peers
from ._readable import readable, row_count
from ._rows import in_shards, put, Rows, rows_of


Source = Repeated | InMemory | Iterated

# The key of the order is made with a number that no step has.
_ORDER = np.uint32(2**32 - 1)


def source_of(
    caller: str,
    batches: Any,
    steps: int | None,
    batch_size: int | None,
    key: PRNGKeyArray | None,
    first: int,
    length: int,
    place: NamedSharding | None = None,
    axes: str | Iterable[str] | None = None,
    peers: Peers = ALONE,
) -> tuple[Source, int | None]:
    """Where the batches come from, and the number of steps, if it is known.

    `place` is all of the mesh of the model, and `axes` are those over which the user
    wants the rows of a batch to be shared out.
    """
    mesh = None if place is None else place.mesh
    if batches is None:
        if steps is None or batch_size is not None:
            raise ValueError(
                f"{caller}: without batches it needs the number of `steps`, and no "
                "`batch_size`"
            )
        return Repeated((), length), steps
    if batch_size is None:
        steps = _check_length(caller, _check_iterable(caller, batches), steps)
        on_mesh = rows_of(caller, mesh, None, axes)
        return Iterated(caller, iter(batches), length, on_mesh, peers), steps
    data = readable(caller, batches, "data")
    rows = row_count(caller, data)
    if peers.several:
        _check_alike(caller, data, peers)
    if not 1 <= batch_size <= rows or (batch_size != rows and key is None):
        raise ValueError(
            f"{caller}: data in memory needs a `key`, and a `batch_size` from 1 to its "
            f"{rows} rows; got key={key} and batch_size={batch_size}"
        )
    steps = rows // batch_size if steps is None else steps
    on_mesh = rows_of(caller, mesh, data, axes)
    if on_mesh is not None and batch_size % on_mesh.parts:
        raise ValueError(
            f"{caller}: batch_size={batch_size} rows cannot be shared out evenly over "
            f"the {on_mesh.parts} devices along {on_mesh.axes}"
        )
    if key is None or batch_size == rows:
        return Repeated(_placed(data, on_mesh, in_rows=True), length), steps
    data = _placed(data, on_mesh, in_rows=False)
    order = jax.random.fold_in(key, jax.device_put(_ORDER))
    return InMemory(data, rows, batch_size, order, first, length, on_mesh), steps


def _check_alike(caller: str, data: PyTree, peers: Peers) -> None:
    """Every process must have the same data in its own memory."""
    sums = [
        zlib.crc32(np.ascontiguousarray(x).tobytes())
        for x in jtu.tree_leaves(data)
        if not isinstance(x, jax.Array) or x.is_fully_addressable
    ]
    together = zlib.crc32(repr(sums).encode()) >> 1  # a positive int32
    if len(np.unique(peers.of_all(together))) > 1:
        raise ValueError(
            f"{caller}: data in memory must be the same in all processes, or one array "
            "in shards. From the rows that each has, make one by "
            "`jax.make_array_from_process_local_data(jax.NamedSharding(mesh, "
            "jax.P('data')), rows)`, or give an iterable of batches"
        )


def _placed(data: PyTree, on_mesh: Rows | None, in_rows: bool) -> PyTree:
    """Data on its devices. On a mesh every device has all rows, unless these are
    wanted `in_rows` or lie so already."""
    if on_mesh is None:
        return jtu.tree_map(jax.device_put, data)
    in_rows = in_rows or any(map(in_shards, jtu.tree_leaves(data)))
    place = on_mesh.place() if in_rows else on_mesh.everywhere
    return jtu.tree_map(lambda x: put(x, place), data)


def _check_iterable(caller: str, batches: Any) -> Iterable[Any]:
    """`batches`, if iterating it gives batches and no rows."""
    in_memory = isinstance(batches, tuple | dict | eqx.Module | jax.Array | np.ndarray)
    if isinstance(batches, eqx.Module) and isinstance(batches, Iterable):
        in_memory = False
    if in_memory or hasattr(batches, "__array__"):
        raise ValueError(
            f"{caller}: data in memory needs a `batch_size`. Batches come in a list or "
            f"another iterable, not in a `{type(batches).__name__}`"
        )
    if not isinstance(batches, Iterable):
        raise TypeError(
            f"{caller}: a `{type(batches).__name__}` is no iterable of batches"
        )
    return batches


def _check_length(caller: str, batches: Iterable[Any], steps: int | None) -> int | None:
    """The number of steps, if it is known."""
    available = len(batches) if isinstance(batches, Sized) else None
    if steps is not None and available is not None and available < steps:
        raise ValueError(
            f"{caller}: there are {available} batches for steps={steps}. To go through "
            "them again and again, give `itertools.cycle(batches)` or a generator"
        )
    return available if steps is None else steps
