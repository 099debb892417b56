"""The models that the benchmarks train."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


class Block(eqx.Module):
    norm: eqx.nn.LayerNorm
    up: eqx.nn.Linear
    down: eqx.nn.Linear

    def __init__(self, width: int, key: PRNGKeyArray):
        up, down = jax.random.split(key)
        self.norm = eqx.nn.LayerNorm(width)
        self.up = eqx.nn.Linear(width, 4 * width, key=up)
        self.down = eqx.nn.Linear(4 * width, width, key=down)

    def __call__(self, x: Float[Array, " width"]) -> Float[Array, " width"]:
        return x + self.down(jax.nn.gelu(self.up(self.norm(x))))


class ResidualMLP(eqx.Module):
    """Blocks of six parameters each."""

    blocks: list[Block]

    def __init__(self, leaves: int, width: int = 16, *, key: PRNGKeyArray):
        keys = jax.random.split(key, leaves // 6)
        self.blocks = [Block(width, k) for k in keys]

    def __call__(self, x: Float[Array, " width"]) -> Float[Array, " width"]:
        for block in self.blocks:
            x = block(x)
        return x


def random_like(tree, key: PRNGKeyArray):
    """A tree of the inexact arrays of `tree`, with normal random entries."""
    leaves, treedef = jax.tree.flatten(eqx.filter(tree, eqx.is_inexact_array))
    keys = jax.random.split(key, len(leaves))
    return treedef.unflatten(
        [jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves)]
    )


def loss(model: ResidualMLP, x: Float[Array, "batch width"]) -> Float[Array, ""]:
    return jnp.mean(jnp.square(jax.vmap(model)(x) - x[:, ::-1]))
