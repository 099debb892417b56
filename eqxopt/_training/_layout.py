"""Where the arrays of a training run lie on a mesh. There they stay."""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.tree_util as jtu
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import Array

from .._places import everywhere, is_on_mesh, place_of, placed_at
from .._tree import is_key
from ._rows import put


T = TypeVar("T")


class Layout(NamedTuple):
    """The place of each array, at least one of which lies on several devices. `None`
    for what was placed by other means than a mesh."""

    places: tuple[NamedSharding | None, ...]

    def other_arguments(self, arrays: list[Any]) -> list[Any]:
        """Other arguments of the program. On a mesh of several processes each array of
        one process goes everywhere."""
        first = next(filter(None, self.places))
        if first.is_fully_addressable:
            return arrays
        place = NamedSharding(first.mesh, PartitionSpec())
        return [_global(x, place) for x in arrays]


def in_layout(tree: T, layout: Layout | None) -> T:
    """`tree`, inside a program, with its arrays where they were before."""
    if layout is None:
        return tree
    leaves, treedef = jtu.tree_flatten(tree)
    places = iter(layout.places)
    leaves = [_put(x, next(places)) if eqx.is_array(x) else x for x in leaves]
    return treedef.unflatten(leaves)


def layout_of(
    arrays: list[Array], others: Sequence[Any]
) -> tuple[list[Array], Layout | None]:
    """`arrays` on the mesh on which one of them lies, or else one of `others`, and
    where they lie then. No layout if there is no mesh.

    What lies on one device, such as a new learning rate, goes everywhere.
    """
    if not any(map(is_on_mesh, arrays)) and not any(map(is_on_mesh, others)):
        return arrays, None
    place = everywhere(arrays) or everywhere(others)
    if place is None:
        return arrays, None
    arrays = [placed_at(x, place) for x in arrays]
    places = map(place_of, arrays)
    return arrays, Layout(
        tuple(x if isinstance(x, NamedSharding) else None for x in places)
    )


def _global(x: Any, place: NamedSharding) -> Any:
    if not isinstance(x, jax.Array):
        return x
    if is_key(x):
        data = _global(jax.random.key_data(x), place)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    return put(x, place)


def _put(x: Array, place: NamedSharding | None) -> Array:
    if place is None:
        return x
    if AxisType.Explicit in place.mesh.axis_types:
        return jax.sharding.reshard(x, place)
    return jax.lax.with_sharding_constraint(x, place)
