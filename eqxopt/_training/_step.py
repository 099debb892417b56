"""One training step, not yet compiled."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, PyTree

from .._abstract.optimizer import AbstractOptimizer
from .._dtype import widen


def training_step(
    loss_fn: Callable[..., Any], has_aux: bool, microbatches: int = 1
) -> Callable[..., Any]:
    """The function `(model, opt, *batch) -> (model, opt, loss)`. With `has_aux` it
    returns `aux` as well."""

    def loss_and_aux(model: PyTree, *batch: Any) -> tuple[Array, Any]:
        value = loss_fn(model, *batch)
        loss, aux = value if has_aux else (value, None)
        if jnp.shape(loss) != ():
            raise ValueError(
                "the loss function must give a scalar, but gave an array of shape "
                f"{jnp.shape(loss)}"
            )
        return loss, aux

    gradient = eqx.filter_value_and_grad(loss_and_aux, has_aux=True)

    def step(model: PyTree, opt: AbstractOptimizer, *batch: Any) -> Any:
        if microbatches == 1:
            (loss, aux), grads = gradient(model, *batch)
        else:
            (loss, aux), grads = _mean_over_parts(gradient, model, batch, microbatches)
        # JAX's gradient of a complex parameter is the conjugate of what points uphill.
        grads = jtu.tree_map(lambda g: g.conj() if jnp.iscomplexobj(g) else g, grads)
        model, opt = opt.apply(
            grads, model, value=loss, value_fn=lambda m: loss_and_aux(m, *batch)[0]
        )
        return (model, opt, loss, aux) if has_aux else (model, opt, loss)

    return step


def _mean_over_parts(
    gradient: Callable[..., Any], model: PyTree, batch: tuple[Any, ...], parts: int
) -> Any:
    """The mean loss and gradients over `parts` parts of the batch, computed one after
    the other."""
    arrays, static = eqx.partition(batch, eqx.is_array)
    split = jtu.tree_map_with_path(lambda path, x: _split(path, x, parts), arrays)

    def body(total: PyTree, part: PyTree) -> tuple[PyTree, tuple[Array, Any]]:
        (loss, aux), grads = gradient(model, *eqx.combine(part, static))
        total = jtu.tree_map(lambda t, g: t + widen(g) / parts, total, grads)
        return total, (loss, aux)

    start = jtu.tree_map(
        lambda x: jnp.zeros_like(widen(x)), eqx.filter(model, eqx.is_inexact_array)
    )
    grads, (losses, aux) = jax.lax.scan(body, start, split)
    return (jnp.mean(losses), aux), grads


def _split(path: Any, x: Array, parts: int) -> Array:
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) and x.ndim == 0:
        return jax.random.split(x, parts)
    if x.ndim == 0:
        return jnp.broadcast_to(x, (parts,))
    if x.shape[0] % parts:
        raise ValueError(
            f"the batch at {jtu.keystr(path)} has {x.shape[0]} rows, which do not "
            f"split into {parts} microbatches"
        )
    return x.reshape(parts, x.shape[0] // parts, *x.shape[1:])
