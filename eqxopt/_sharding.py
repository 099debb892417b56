"""What the type of an array says of where it lies.

On a mesh with explicit axes, in which shards; inside `jax.shard_map`, over which axes
it varies; on auto axes, on which mesh. Loops and branches insist on equal types.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jax.core import Tracer
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import Array

from ._types import AnyLeaf


T = TypeVar("T")


def gathered(x: Array, axis: int = 0) -> Array:
    """`x` whole along `axis` and all later axes, if its type says that it lies in
    shards along one of them.

    A product along a sharded axis has no one place to lie.
    """
    if not _shards(x):
        return x
    sharding = jax.typeof(x).sharding
    spec = [*sharding.spec, *[None] * (x.ndim - len(sharding.spec))]
    if not any(spec[axis:]):
        return x
    spec[axis:] = [None] * (x.ndim - axis)
    whole = NamedSharding(sharding.mesh, PartitionSpec(*spec))
    return jax.sharding.reshard(x, whole)


def on_auto_axes(function: Callable[[Any], T], operands: Any, likes: T) -> T:
    """`function` of a tree, inside which the compiler chooses where arrays lie.

    On explicit axes its arrays lie in shards of unknown form there, and those of the
    result where the arrays of `likes` lie.
    """
    auto_axes = getattr(jax.sharding, "auto_axes", None)
    meshes = [
        jax.typeof(x).sharding.mesh
        for x in jtu.tree_leaves(likes)
        if _shards(x) and on_explicit_axes(x)
    ]
    if not meshes or auto_axes is None:  # as in old versions of JAX
        return function(operands)
    place = lambda x: NamedSharding(meshes[0], jax.typeof(x).sharding.spec)
    arrays, static = eqx.partition(operands, eqx.is_array)
    on_arrays = lambda arrays: function(eqx.combine(arrays, static))
    return auto_axes(on_arrays, out_sharding=jtu.tree_map(place, likes))(arrays)


def each_whole(x: Array) -> Array:
    """`x`, a batch of matrices, with each matrix whole on one device, on a mesh with
    auto axes. A single one is whole on all.

    So it moves once, and not in every product; and each device has its share.
    """
    mesh = _mesh_of_auto_axes(x)
    if mesh is None:
        return x
    return _constrained(
        _constrained(x, mesh, *_in_any_shards(x)), mesh, *_shares(x, mesh)
    )


def each_in_shards(x: Array) -> Array:
    """What becomes of a batch that was `each_whole`: every matrix is in shards again,
    or on all devices, as the compiler finds best."""
    mesh = _mesh_of_auto_axes(x)
    if mesh is None:
        return x
    return _constrained(
        _constrained(x, mesh, *_shares(x, mesh)), mesh, *_in_any_shards(x)
    )


def _shares(x: Array, mesh: Any) -> list[Any]:
    # Over one axis: the compiler has no step from rows and columns to several.
    longest = max(mesh.axis_names, key=lambda axis: mesh.shape[axis])
    return [longest if len(x) > 1 else None, *[None] * (x.ndim - 1)]


def _in_any_shards(x: Array) -> list[Any]:
    return [None, *[PartitionSpec.UNCONSTRAINED] * (x.ndim - 1)]


def _constrained(x: Array, mesh: Any, *spec: Any) -> Array:
    place = NamedSharding(mesh, PartitionSpec(*spec))
    return jax.lax.with_sharding_constraint(x, place)


def _mesh_of_auto_axes(x: Array) -> Any:
    """The mesh of a traced array, if the compiler chooses where on it arrays lie."""
    mesh = getattr(jax.typeof(x).sharding, "mesh", None)
    if mesh is None or mesh.empty or not isinstance(x, Tracer):
        return None
    return mesh if {*mesh.axis_types} == {AxisType.Auto} else None


def varying(x: Any) -> frozenset[Any]:
    """The axes of `jax.shard_map` over which `x`, an array or its shape, varies."""
    kind = _type_of(x)
    if hasattr(kind, "manual_axis_type"):
        return getattr(kind.manual_axis_type, "varying", None) or frozenset()
    return getattr(kind, "vma", None) or frozenset()  # before jax 0.10


def on_explicit_axes(x: Any) -> bool:
    """Whether the type of `x` says where on a mesh it lies, even if that is
    everywhere."""
    mesh = getattr(_type_of(x).sharding, "mesh", None)
    return AxisType.Explicit in getattr(mesh, "axis_types", ())


def is_spread(x: Any) -> bool:
    """Whether the type of `x` says that it lies in shards, or varies over a mesh."""
    return bool(_shards(x) or varying(x))


def tied(x: T, *likes: Any) -> T:
    """`x` where `likes` lie: in the shards of the first that lies in any, and varying
    over every axis over which one of them varies."""
    for like in likes:
        if _shards(like):
            x = _in_shards(x, _type_of(like).sharding)
            break
    return _varying_over(x, frozenset().union(*map(varying, likes)))


def tied_together(tree: T, *others: Any) -> T:
    """`tree`, all of whose arrays vary over every axis over which any array of `tree`
    and `others` does."""
    axes = frozenset().union(*map(varying, jtu.tree_leaves((tree, others))))
    return jtu.tree_map(lambda x: _varying_over(x, axes), tree) if axes else tree


def of_type(x: Array, like: Array) -> Array:
    """`x` in just the shards in which `like` lies, by its type: in none if it lies in
    none."""
    if _shards(x) and not _shards(like) and on_explicit_axes(like):
        return _in_shards(x, jax.typeof(like).sharding)
    return tied(x, like)


def cond(
    condition: Any,
    if_true: Callable[..., T],
    if_false: Callable[..., T],
    *operands: Any,
) -> T:
    """`jax.lax.cond`, whose branches need not agree on where results lie.

    Name among the `operands` also what the branches could close over: only what is
    named here tells whether anything is spread.
    """
    if not any(map(is_spread, jtu.tree_leaves((condition, operands)))):
        return jax.lax.cond(condition, if_true, if_false, *operands)
    # As programs of their own, so that each is traced once, for its types and as a
    # branch.
    branches = jax.jit(if_true), jax.jit(if_false)
    new, old = (jax.eval_shape(branch, *operands) for branch in branches)
    tie = lambda x, a, b: tied(x, b, a, condition)
    alike = [lambda *xs, f=f: jtu.tree_map(tie, f(*xs), new, old) for f in branches]
    return jax.lax.cond(condition, *alike, *operands)


def _type_of(x: Any) -> Any:
    return x if isinstance(x, jax.ShapeDtypeStruct) else jax.typeof(x)


def _shards(x: Any) -> bool:
    """Whether the type of `x` says that it lies in shards."""
    return any(getattr(_type_of(x).sharding, "spec", ()))


def _in_shards(x: Any, sharding: Any) -> Any:
    # Outside of any mesh no operation may move what is not traced.
    known = isinstance(x, Tracer) or not jax.sharding.get_abstract_mesh().empty
    return jax.sharding.reshard(x, sharding) if known else x


def _varying_over(x: Any, axes: frozenset[Any]) -> Any:
    missing = tuple(sorted(axes - varying(x), key=str))
    if not missing:
        return x
    lax: Any = jax.lax
    if hasattr(lax, "pcast"):
        return lax.pcast(x, missing, to="varying")
    return lax.pvary(x, missing)  # before jax 0.9


def placed_with(param: AnyLeaf, state: T) -> T:
    """`state`, whose arrays of the parameter's shape lie where the parameter lies."""
    if not isinstance(param, Tracer):
        return state
    # Inside jit the compiler gives an array the sharding of what it is computed from,
    # and zeros are computed from nothing. This select ties them to their parameter; it
    # is gone after compilation.
    missing = jnp.isnan(param)

    def placed(x: Any) -> Any:
        if x.shape != param.shape:
            return x
        x = tied(x, param)  # a select insists on equal types
        return jnp.where(missing, x, x)

    return jtu.tree_map(placed, state)
