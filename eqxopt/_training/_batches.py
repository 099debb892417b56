"""Where the batches of a training run come from."""

import itertools
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import PRNGKeyArray, PyTree

from .._tree import is_key
from ._chunks import Chunk, Drawn, Stacked, Whole
from ._peers import Peers
from ._readable import nbytes, readable
from ._rows import in_shards, put, put_own, Rows
from ._stop import Stop


# The most bytes of batches that are stacked for one call of a program.
_BYTES = 2**26


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
        the run shall stop, unless other processes pull theirs."""
        batches: list[PyTree] = []
        size = 0
        while len(batches) < n and size < _BYTES:
            if stop.requested is not None and not self._peers.several:
                break
            try:
                batch = next(self._batches)
                batches.append(readable(self._caller, batch, "batch"))
            except StopIteration:
                self.ended = True
                break
            except BaseException as error:
                self.error = error
                break
            size += nbytes(batches[-1])
        return batches

    def _agreed(self, pulled: list[PyTree]) -> list[PyTree]:
        """As many of the batches as every process has."""
        failed = self.error is not None
        told = self._peers.of_all(len(pulled), int(self.ended), int(failed))
        number, ended, fails = min(told[:, 0]), any(told[:, 1]), any(told[:, 2])
        self.ended = self.ended or ended
        if len(pulled) > number and not fails:
            warnings.warn(
                f"{self._caller}: {len(pulled) - number} batches of this process were "
                "left out, since another process had no more",
                stacklevel=5,
            )
        if fails and not failed:
            self.error = RuntimeError(
                f"{self._caller}: the iterator of another process raised an exception"
            )
        return pulled[:number]

    def _shapes(self, batch: PyTree) -> Any:
        leaves, treedef = jtu.tree_flatten(batch)
        fitting = max(1, _BYTES // max(1, nbytes(batch)))
        shapes = [(np.shape(x), jnp.result_type(x)) for x in leaves]
        return (treedef, shapes), min(self._length, fitting)


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
