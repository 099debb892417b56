"""A model and its optimizer on a mesh of devices."""

from collections.abc import Callable
from typing import Any, Literal, TypeVar

import equinox as eqx
import jax
import jax.tree_util as jtu
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from .._abstract.optimizer import AbstractOptimizer
from .._places import cut


M = TypeVar("M")
O = TypeVar("O", bound=AbstractOptimizer)
T = TypeVar("T")


def shard(
    model: M,
    opt: O,
    mesh: Mesh,
    layout: Literal["data", "zero-1", "fsdp"] = "data",
    *,
    axis: str | None = None,
) -> tuple[M, O]:
    """Places a model and its optimizer on a mesh, for training in which each device
    computes a part of every batch.

    With `d` devices along the axis, and parameters of `p` bytes and a state of `s`:

    | layout | parameters | state | bytes a device | sent by a device in a step |
    | --- | --- | --- | --- | --- |
    | `"data"` | everywhere | everywhere | `p + s` | gradients: `2p` |
    | `"zero-1"` | everywhere | in shards | `p + s / d` | gradients and updates: `3p` |
    | `"fsdp"` | in shards | in shards | `(p + s) / d` | parameters, gradients: `3p` |

    [`make_step`][eqxopt.make_step] and [`fit`][eqxopt.fit] keep the layout.

    **Arguments:**

    - `model`: any pytree.
    - `opt`: its optimizer, best before `init`: it is initialised here, and the state
        never lies whole on one device. A state that is there is moved.
    - `mesh`: a `jax.sharding.Mesh`, such as `jax.make_mesh((8,), ("data",))`, with auto
        or explicit axes.
    - `layout`: as in the table. Default `"data"`.
    - `axis`: the axis of the mesh over which shards are cut. Default: the only one.

    An array is cut along the longest of its axes that the number of devices divides,
    and lies everywhere if there is none.

    **Returns:** `(model, opt)` on the mesh, with arrays of their own.

    **Raises:** a `ValueError` for an unknown layout or axis.

    !!! example

        ```pycon
        >>> import jax, jax.numpy as jnp, eqxopt
        >>> mesh = jax.make_mesh((jax.device_count(),), ("data",))
        >>> params = {"w": jnp.ones((64, 8))}
        >>> params, opt = eqxopt.shard(params, eqxopt.AdamW(0.1), mesh, "fsdp")
        >>> print(opt.state["w"].mu.sharding.is_equivalent_to(params["w"].sharding, 2))
        True

        ```
    """
    if layout not in ("data", "zero-1", "fsdp"):
        raise ValueError(
            f"`shard`: layout is 'data', 'zero-1' or 'fsdp', not {layout!r}"
        )
    name = _axis(mesh, axis)
    whole = NamedSharding(mesh, PartitionSpec())

    def model_place(x: Any) -> Any:
        in_shards = layout == "fsdp" and eqx.is_inexact_array(x)
        return cut(x.shape, mesh, [name]) if in_shards else whole

    model = _placed(model, model_place)
    shapes = {x.shape for x in jtu.tree_leaves(model) if eqx.is_inexact_array(x)}
    explicit = AxisType.Explicit in mesh.axis_types

    def state_place(x: Any) -> NamedSharding:
        if layout == "data":
            return whole
        if explicit and x.shape not in shapes:
            # `init` has said where the sums and factors of a parameter can lie.
            return NamedSharding(mesh, getattr(x.sharding, "spec", PartitionSpec()))
        return cut(x.shape, mesh, [name])

    if opt.count is not None:
        return model, _placed(opt, state_place)
    return model, _begun(opt, model, layout == "data", state_place)


def _axis(mesh: Mesh, axis: str | None) -> str:
    if axis is None and len(mesh.axis_names) == 1:
        return mesh.axis_names[0]
    if axis not in mesh.axis_names:
        raise ValueError(
            f"`shard`: the mesh has the axes {mesh.axis_names}. Say by `axis` over "
            f"which of them shards are cut, not {axis!r}"
        )
    return str(axis)


def _placed(tree: T, place: Callable[[Any], NamedSharding]) -> T:
    arrays, others = eqx.partition(tree, eqx.is_array)
    # `device_put` keeps an array as the part of its own device, also if it may not.
    copies = jtu.tree_map(lambda x: x.copy(), arrays)
    placed = jax.device_put(copies, jtu.tree_map(place, arrays))
    return eqx.combine(placed, others)


def _begun(
    opt: O, model: Any, in_stacks: bool, place: Callable[[Any], NamedSharding]
) -> O:
    """`opt` with a state of which no device ever has more than its part."""
    arrays, others = eqx.partition(model, eqx.is_array)
    init = lambda arrays: opt.init(eqx.combine(arrays, others), in_stacks=in_stacks)
    places = jtu.tree_map(place, jax.eval_shape(init, arrays))
    return jax.jit(init, out_shardings=places)(arrays)
