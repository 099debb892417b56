"""Models, gradients and losses that the suites share."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np


def nested_params(dtype=jnp.float32, *, large: bool = False):
    """Scalars, vectors, matrices and a 4-d kernel; `large` adds a matrix that is big
    enough to be factored."""
    shapes = {
        "scalar": (),
        "layers": [(3,), (4, 3)],
        "kernel": (2, 2, 3, 4),
    }
    if large:
        shapes["large"] = (128, 130)
    leaves, treedef = jax.tree.flatten(shapes, is_leaf=lambda x: isinstance(x, tuple))
    keys = jax.random.split(jax.random.key(0), len(leaves))
    return treedef.unflatten(
        [jax.random.normal(k, shape, dtype) for k, shape in zip(keys, leaves)]
    )


# Parameters of one shape share a stack.
SHAPES = {
    "scalar": (),
    "vector": (3,),
    "matrix": (4, 3),
    "empty": (0, 2),
    "bias": (3,),
    "weight": (4, 3),
}


def small_params(dtype=jnp.float32, seed=0):
    keys = jax.random.split(jax.random.key(seed), len(SHAPES))
    return {
        name: jax.random.normal(key, shape, dtype)
        for key, (name, shape) in zip(keys, SHAPES.items())
    }


def nested_loss(params, step=0.0):
    """It is not convex and moves with the step, so that every moment moves."""

    def one(x):
        phase = (1 + 0.1 * step) * x
        return jnp.sum((jnp.cos(phase) + 0.1 * phase**2).real)

    return sum(one(x) for x in jax.tree.leaves(params)) + 10.0


def params_and_still():
    """Parameters of which one has a gradient that is exactly 0, as has one entry."""
    keys = jax.random.split(jax.random.key(0), 2)
    return {
        "vector": jax.random.normal(keys[0], (3,), float).at[1].set(0),
        "matrix": jax.random.normal(keys[1], (4, 3), float),
        "still": jnp.ones((2,), float),
    }


def still_loss(params, step):
    """A loss of `params_and_still`. It is even, so that the entry at 0 stays there."""
    moving = {k: x for k, x in params.items() if k != "still"}
    return nested_loss(moving, step) + 0 * jnp.sum(params["still"])


def still_residuals(params, step):
    """Residuals in the same parameters. Their sum of squares is another loss."""
    phase = 1 + 0.1 * step
    moving = [x for k, x in params.items() if k != "still"]
    return [jnp.sin(phase * x) + 0.3 * x for x in moving]


def curved(params):
    """A loss of any model."""
    leaves = [x for x in jax.tree.leaves(params) if eqx.is_inexact_array(x)]
    return sum((jnp.sum(jnp.abs(x) ** 2).astype(jnp.float32) for x in leaves), 1.0)


def curved_residuals(params):
    """Residuals whose half sum of squares is `curved`."""
    leaves = [x for x in jax.tree.leaves(params) if eqx.is_inexact_array(x)]
    return [jnp.asarray(2**0.5, x.dtype) * x for x in (*leaves, jnp.ones(()))]


# What an optimizer may need beside the gradients.
CURVED = {"value": 1.0, "value_fn": curved, "residual_fn": curved_residuals}


class Model(eqx.Module):
    """What a user's model holds: layers, a function, an int, a static string, None."""

    layers: list[eqx.nn.Linear]
    activation: object
    steps: int
    scale: jax.Array
    name: str = eqx.field(static=True)
    nothing: None = None

    def __init__(self, key=None, dtype=jnp.float32):
        keys = jax.random.split(jax.random.key(0) if key is None else key)
        self.layers = [
            eqx.nn.Linear(3, 4, key=keys[0], dtype=dtype),
            eqx.nn.Linear(4, 2, key=keys[1], dtype=dtype),
        ]
        self.activation = jax.nn.tanh
        self.steps = 3
        self.scale = jnp.ones((), dtype)
        self.name = "model"

    def __call__(self, x):
        x = self.activation(self.layers[0](x))
        return self.scale * self.layers[1](x)


def rosenbrock(p):
    """The banana, over the entries of `x` and then those of `w`."""
    x = jnp.concatenate([p["x"], p["w"].reshape(-1)])
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def flat(params):
    """All entries in flattening order."""
    return np.concatenate([np.asarray(x).reshape(-1) for x in jax.tree.leaves(params)])
