"""Batches as a compiled program is given them."""

from typing import Any

import equinox as eqx
import jax
import jax.tree_util as jtu
from jax.sharding import PartitionSpec
from jaxtyping import Array, Int, PyTree

from ._rows import Rows


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
