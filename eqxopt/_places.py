"""Where arrays with values lie on a mesh of devices."""

from collections.abc import Container, Iterable, Sequence
from typing import Any, TypeVar

import jax
import jax.tree_util as jtu
from jax.core import Tracer
from jax.sharding import (
    AbstractMesh,
    AxisType,
    Mesh,
    NamedSharding,
    PartitionSpec,
    Sharding,
    SingleDeviceSharding,
)


T = TypeVar("T")


def place_of(x: Any) -> Sharding | None:
    """Where an array lies; `None` for what is traced or is no array of JAX."""
    if isinstance(x, Tracer):
        return None
    return getattr(x, "sharding", None) if isinstance(x, jax.Array) else None


def is_on_mesh(x: Any) -> bool:
    """Whether this is an array that lies on several devices."""
    place = place_of(x)
    # That of an array on one device is asked for most often, and in every step.
    return (
        place is not None
        and type(place) is not SingleDeviceSharding
        and place.num_devices > 1
    )


def everywhere(arrays: Iterable[Any]) -> NamedSharding | None:
    """The place that is all of the first mesh on which one of `arrays` lies; `None` if
    none lies on several devices."""
    for x in arrays:
        place = place_of(x)
        if isinstance(place, NamedSharding) and place.num_devices > 1:
            return NamedSharding(place.mesh, PartitionSpec())
    return None


def placed_at(x: T, place: NamedSharding) -> T:
    """`x` at `place`, if it is an array that lies on one device."""
    if place_of(x) is None or is_on_mesh(x):
        return x
    return jax.device_put(x, place)


def as_placed(new: T, old: T) -> T:
    """`new`, which a compiled program has made of `old`, with each array where that of
    `old` lies: what is not said to a compiler, it chooses."""

    def placed(x: Any, before: Any) -> Any:
        place = place_of(before)
        if not is_on_mesh(before) or place_of(x) == place:
            return x
        return jax.device_put(x, place)

    return jtu.tree_map(placed, new, old)


def cut(
    shape: tuple[int, ...],
    mesh: Mesh | AbstractMesh,
    axes: Sequence[str],
    first: int = 0,
) -> NamedSharding:
    """Shards of an array: over each axis of the mesh along the longest of its own, from
    the `first` on, that the devices divide, and that is not cut yet. The first of
    equals."""
    spec: list[Any] = [None] * len(shape)
    for axis in sorted(axes, key=lambda axis: -mesh.shape[axis]):
        lengths = [
            (n, -i)
            for i, (n, taken) in enumerate(zip(shape, spec))
            if i >= first and n and n % mesh.shape[axis] == 0 and taken is None
        ]
        if lengths:
            spec[-max(lengths)[1]] = axis
    return NamedSharding(mesh, PartitionSpec(*spec))


# Smaller arrays are not worth the messages.
_WORTH_CUTTING = 2**10


def on_their_mesh(tree: T, arrays: Sequence[Any], rows: Container[int]) -> T:
    """`tree`, made for `arrays`, on the mesh on which these lie.

    If they lie in shards, so does what is large and belongs to none of them alone, such
    as the factors of a matrix. The rest lies everywhere. `rows` has the ids of arrays
    whose rows are looked up one by one. On explicit axes they are not cut there, for a
    row would have no one place to lie.
    """
    place = everywhere(arrays)
    if place is None:
        return tree
    specs = jtu.tree_leaves([tuple(getattr(place_of(x), "spec", ())) for x in arrays])
    axes = [axis for axis in place.mesh.axis_names if axis in specs]
    explicit = AxisType.Explicit in place.mesh.axis_types
    shapes = {x.shape for x in arrays}

    def placed(x: Any) -> Any:
        sharding = place_of(x)
        if sharding is None or not sharding.is_fully_replicated:
            return x
        if axes and x.size >= _WORTH_CUTTING and x.shape not in shapes:
            first = int(explicit and id(x) in rows)
            return jax.device_put(x, cut(x.shape, place.mesh, axes, first))
        return placed_at(x, place)

    return jtu.tree_map(placed, tree)
