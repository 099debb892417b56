"""Where the batches of a training run come from."""

import itertools
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sized
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from .._tree import is_key
from ._peers import Peers
from ._rows import in_shards, put, put_own, Rows, rows_of
from ._stop import Stop


# The most bytes of batches that are stacked for one call of a program.
_BYTES = 2**26
# Kinds of NumPy dtypes that are no numbers: strings, objects, times.
_NO_NUMBERS = "OSUMm"


class Whole(eqx.Module):
    """The same batch in every step."""

    data: PyTree
    length: int = eqx.field(static=True)

    def batch(self, i: Int[Array, ""]) -> Any:
        return self.data


class Stacked(eqx.Module):
    """Batches along a first axis."""

    batches: PyTree
    length: int = eqx.field(static=True)

    def batch(self, i: Int[Array, ""]) -> Any:
        return jtu.tree_map(lambda x: x[i], self.batches)


class Drawn(eqx.Module):
    """The row numbers of batches, and the data that they are drawn from.

    On a mesh each device draws its part of the batch: from its `own` shard of the data,
    in which the row numbers count, or from the whole, which it has.
    """

    data: PyTree
    rows: Int[Array, "length batch"]
    length: int = eqx.field(static=True)
    on_mesh: Rows | None = eqx.field(static=True, default=None)
    own: bool = eqx.field(static=True, default=False)

    def batch(self, i: Int[Array, ""]) -> Any:
        draw = lambda data, rows: jtu.tree_map(lambda x: x[rows], data)
        if self.on_mesh is None:
            return draw(self.data, self.rows[i])
        shared = PartitionSpec(self.on_mesh.axes)
        # Where it is drawn, no row moves.
        return jax.shard_map(
            draw,
            mesh=self.on_mesh.mesh,
            in_specs=(shared if self.own else PartitionSpec(), shared),
            out_specs=shared,
            axis_names={*self.on_mesh.axes},
        )(self.data, jax.lax.dynamic_index_in_dim(self.rows, i, keepdims=False))


# Batches for up to `length` steps, as a compiled program is given them.
Chunk = Whole | Stacked | Drawn


class Repeated:
    """The same batch again and again."""

    ended = False
    error = None

    def __init__(self, batch: PyTree, length: int):
        self._chunk = Whole(batch, length)

    def take(self, n: int, stop: Stop) -> Iterator[tuple[Chunk, int]]:
        yield self._chunk, n


class InMemory:
    """Batches of data whose rows are in memory, from the `first`-th on.

    Every epoch has an order of its own, which depends only on the key and its number.
    """

    ended = False
    error = None

    def __init__(
        self,
        data: PyTree,
        rows: int,
        batch_size: int,
        key: PRNGKeyArray,
        first: int,
        length: int,
        on_mesh: Rows | None,
    ):
        self._data = data
        self._next = first
        self._length = length
        self._batch_size = batch_size
        self._on_mesh = on_mesh
        self._own = on_mesh is not None and any(map(in_shards, jtu.tree_leaves(data)))
        self._parts = on_mesh.parts if on_mesh is not None and self._own else 1
        self._rows = rows
        self._per_epoch = self._rows // batch_size
        words = jax.random.key_data(key) if is_key(key) else key
        self._entropy = [int(word) for word in np.ravel(jax.device_get(words))]
        self._epoch: tuple[int, np.ndarray] | None = None

    def take(self, n: int, stop: Stop) -> Iterator[tuple[Chunk, int]]:
        rows = np.zeros((self._length, self._batch_size), np.int32)
        done = 0
        while done < n:
            epoch, step = divmod(self._next, self._per_epoch)
            part = self._order(epoch)[step : step + n - done]
            rows[done : done + len(part)] = part
            done += len(part)
            self._next += len(part)
        on_mesh = self._on_mesh
        placed = put(rows, on_mesh.place(None)) if on_mesh else jax.device_put(rows)
        yield Drawn(self._data, placed, self._length, on_mesh, self._own), n

    def _order(self, epoch: int) -> np.ndarray:
        """The row numbers of the batches of an epoch."""
        if self._epoch is None or self._epoch[0] != epoch:
            parts = [self._order_of_part(epoch, i) for i in range(self._parts)]
            self._epoch = epoch, np.concatenate(parts, axis=1)
        return self._epoch[1]

    def _order_of_part(self, epoch: int, part: int) -> np.ndarray:
        # The only part has no number, so that its order is that without a mesh.
        seed = [*self._entropy, epoch, *[part] * (self._parts > 1)]
        generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(seed)))
        rows = generator.permutation(self._rows // self._parts)
        used = self._per_epoch * (self._batch_size // self._parts)
        return rows[:used].reshape(self._per_epoch, -1)


class Iterated:
    """The batches of an iterable. `error` is what it raised."""

    def __init__(
        self,
        caller: str,
        batches: Iterator[Any],
        length: int,
        on_mesh: Rows | None,
        peers: Peers,
    ):
        self.ended = False
        self.error: BaseException | None = None
        self._caller = caller
        self._batches = batches
        self._length = length
        self._on_mesh = on_mesh
        self._peers = peers
        self._waiting: list[PyTree] = []  # batches that other processes had not yet
        self._warned = False

    def take(self, n: int, stop: Stop) -> Iterator[tuple[Chunk, int]]:
        pulled = self._agreed(self._pulled(n, stop))
        for (_, length), group in itertools.groupby(pulled, self._shapes):
            batches = list(group)
            for i in range(0, len(batches), length):
                some = batches[i : i + length]
                stacked = self._placed(_stacked(some, length))
                yield Stacked(stacked, length), len(some)

    def _placed(self, stacked: PyTree) -> PyTree:
        """Batches along a first axis, with their rows on the devices that compute
        them."""
        on_mesh = self._on_mesh
        if on_mesh is None:
            return jax.device_put(stacked)
        uneven = {x.shape[1] for x in jtu.tree_leaves(stacked) if x.ndim > 1}
        uneven = {n for n in uneven if n % on_mesh.parts_here}
        if uneven and self._peers.several:
            raise ValueError(
                f"{self._caller}: a batch of {min(uneven)} rows of this process cannot "
                f"be shared out over its {on_mesh.parts_here} devices"
            )
        if uneven and not self._warned:
            self._warned = True
            warnings.warn(
                f"{self._caller}: a batch of {min(uneven)} rows is not shared out over "
                f"{on_mesh.parts} devices. Each of them computes all its rows",
                stacklevel=4,
            )

        def place(x: Any) -> NamedSharding:
            rows = not uneven and x.ndim > 1
            return on_mesh.place(None) if rows else on_mesh.everywhere

        return jtu.tree_map(lambda x: put_own(x, place(x)), stacked)

    def _pulled(self, n: int, stop: Stop) -> list[PyTree]:
        """At most `n` batches. Few enough of them to fit into memory, and none after
        the run shall stop."""
        batches, self._waiting = self._waiting, []
        size = sum(map(_nbytes, batches))
        while len(batches) < n and size < _BYTES and stop.requested is None:
            try:
                batch = next(self._batches)
                batches.append(_readable(self._caller, batch, "batch"))
            except StopIteration:
                self.ended = True
                break
            except BaseException as error:
                self.error = error
                break
            size += _nbytes(batches[-1])
        return batches

    def _agreed(self, pulled: list[PyTree]) -> list[PyTree]:
        """As many of the batches as every process has."""
        if not self._peers.several:
            return pulled
        number = min(self._peers.of_all(len(pulled)))
        self._waiting = pulled[number:]
        self.ended = self._peers.any(self.ended)
        if self.ended and self._waiting:
            warnings.warn(
                f"{self._caller}: {len(self._waiting)} batches of this process were "
                "left out, since another process had no more",
                stacklevel=5,
            )
        if self._peers.any(self.error is not None) and self.error is None:
            self.error = RuntimeError(
                f"{self._caller}: the iterator of another process raised an exception"
            )
        return pulled[:number]

    def _shapes(self, batch: PyTree) -> Any:
        leaves, treedef = jtu.tree_flatten(batch)
        fitting = max(1, _BYTES // max(1, _nbytes(batch)))
        shapes = [(np.shape(x), jnp.result_type(x)) for x in leaves]
        return (treedef, shapes), min(self._length, fitting)


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
    mesh: Mesh | AbstractMesh | None = None,
    axes: str | Iterable[str] | None = None,
    peers: Peers | None = None,
) -> tuple[Source, int | None]:
    """Where the batches come from, and the number of steps, if it is known.

    `mesh` is that of the model, and `axes` are those over which the user wants the rows
    of a batch to be shared out.
    """
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
        peers = peers or Peers(caller, None)
        return Iterated(caller, iter(batches), length, on_mesh, peers), steps
    data = _readable(caller, batches, "data")
    rows = _row_count(caller, data)
    if peers is not None and peers.several:
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
    if len({*peers.of_all(together)}) > 1:
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


def _readable(caller: str, tree: PyTree, what: str) -> PyTree:
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
    return array


def _row_count(caller: str, data: PyTree) -> int:
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


def _nbytes(batch: PyTree) -> int:
    return sum(x.size * x.dtype.itemsize for x in jtu.tree_leaves(batch))


def _stacked(batches: list[PyTree], length: int) -> PyTree:
    """Up to `length` batches in arrays of that length, so that one program fits."""

    def stack(*leaves: Any) -> Any:
        if any(isinstance(x, jax.Array) for x in leaves):
            return jnp.stack([*leaves, *leaves[-1:] * (length - len(leaves))])
        stacked = np.zeros((length, *leaves[0].shape), leaves[0].dtype)
        for i, x in enumerate(leaves):
            stacked[i] = x
        return stacked

    return jtu.tree_map(stack, *batches)
