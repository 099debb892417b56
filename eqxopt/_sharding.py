"""Where arrays lie when a model is spread over devices."""

from typing import TypeVar

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jax.core import Tracer

from ._types import AnyLeaf, Leaf


T = TypeVar("T")


def gathered(x: Leaf) -> Leaf:
    """`x` whole on every device, if its type says that it lies in shards.

    A product along a sharded axis has no one place to lie.
    """
    sharding = jax.typeof(x).sharding
    if all(axis is None for axis in sharding.spec):
        return x
    whole = jax.sharding.PartitionSpec(*[None] * x.ndim)
    return jax.sharding.reshard(x, jax.sharding.NamedSharding(sharding.mesh, whole))


def sharded_like(x: Leaf, param: Leaf) -> Leaf:
    """`x` in the shards that the type of `param` names."""
    sharding = jax.typeof(param).sharding
    if all(axis is None for axis in sharding.spec):
        return x
    return jax.sharding.reshard(x, sharding)


def placed_with(param: AnyLeaf, state: T) -> T:
    """`state`, whose arrays of the parameter's shape lie where the parameter lies."""
    if not isinstance(param, Tracer):
        return state
    # Inside jit the compiler gives an array the sharding of what it is computed from,
    # and zeros are computed from nothing. This select ties them to their parameter; it
    # is gone after compilation.
    missing = jnp.isnan(param)
    return jtu.tree_map(
        lambda x: jnp.where(missing, x, x) if x.shape == param.shape else x, state
    )
