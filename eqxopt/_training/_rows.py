"""The rows of a batch on a mesh: which device computes which."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.tree_util as jtu
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from .._places import place_of


class Rows(NamedTuple):
    """The axes of a mesh over which the rows of a batch are shared out."""

    mesh: Mesh | AbstractMesh
    axes: tuple[str, ...]

    @property
    def parts(self) -> int:
        return math.prod(self.mesh.shape[axis] for axis in self.axes)

    def place(self, *before: None) -> NamedSharding:
        """Where an array lies whose rows are counted by the axis after `before`."""
        return NamedSharding(self.mesh, PartitionSpec(*before, self.axes))

    @property
    def everywhere(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def parts_here(self) -> int:
        """The number of parts that are on devices of this process."""
        places = self.place().addressable_devices_indices_map((self.parts,))
        return len({*map(str, places.values())})


def rows_of(
    caller: str,
    mesh: Mesh | AbstractMesh | None,
    data: PyTree,
    axes: str | Iterable[str] | None,
) -> Rows | None:
    """How the rows of batches are shared out.

    Data that lies in shards of rows says it by itself. Otherwise it is over the `axes`
    that the user named, or over the one axis that a mesh of the model has.
    """
    own = next(filter(None, map(_rows_in_shards, jtu.tree_leaves(data))), None)
    if own is not None and axes is None:
        return own
    mesh = mesh if own is None else own.mesh
    if mesh is None:
        if axes is not None:
            raise ValueError(
                f"{caller}: neither the model nor the data lies on a mesh, so there is "
                f"nothing to share out over batch_axes={axes!r}. Place the model with "
                "`eqxopt.shard`"
            )
        return None
    named = mesh.axis_names if axes is None else axes
    named = (named,) if isinstance(named, str) else tuple(named)
    if axes is None and len(named) > 1:
        raise ValueError(
            f"{caller}: the mesh has the axes {named}. Say over which the rows of a "
            f"batch are shared out, such as by batch_axes={named[0]!r}"
        )
    unknown = [axis for axis in named if axis not in mesh.axis_names]
    if unknown:
        raise ValueError(
            f"{caller}: the mesh has the axes {mesh.axis_names}, and no {unknown[0]!r}"
        )
    return Rows(mesh, named)


def in_shards(x: Any) -> bool:
    return _rows_in_shards(x) is not None


def _rows_in_shards(x: Any) -> Rows | None:
    """The axes over which the first axis of `x` is cut."""
    place = place_of(x)
    if not isinstance(place, NamedSharding) or not place.spec or not place.spec[0]:
        return None
    axes = place.spec[0]
    return Rows(place.mesh, axes if isinstance(axes, tuple) else (axes,))


def put(x: Any, place: NamedSharding) -> Array:
    """`x`, of which every process has the whole, at `place`."""
    if place.is_fully_addressable or not _is_local(x):
        return jax.device_put(x, place)
    whole = np.asarray(x)
    return jax.make_array_from_callback(whole.shape, place, lambda at: whole[at])


def put_own(x: Any, place: NamedSharding) -> Array:
    """`x`, of which every process has its own part, at `place`."""
    if place.is_fully_addressable or not _is_local(x):
        return jax.device_put(x, place)
    return jax.make_array_from_process_local_data(place, np.asarray(x))


def _is_local(x: Any) -> bool:
    """Whether only this process has `x`."""
    return not isinstance(x, jax.Array) or x.is_fully_addressable
