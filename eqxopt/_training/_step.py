"""One training step, not yet compiled."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Int, PyTree

from .._abstract.optimizer import AbstractOptimizer
from .._abstract.transform import count_of
from .._dtype import widen
from .._precision.loss_scaling import scaling_of
from .._tree import is_key
from .._wrapper.accumulate import Accumulate
from ._loss import called, Given, Returned


Carry = tuple[Any, Any, Any]  # a model, an optimizer and a state


def training_step(
    loss_fn: Callable[..., Any],
    carry: Carry,
    given: Given,
    *,
    has_aux: bool,
    residuals: bool = False,
    microbatches: int = 1,
    on_mesh: bool = False,
) -> tuple[Carry, Returned]:
    """The next model, optimizer and state, and what the loss function returned."""
    model, opt, state = carry
    if not any(eqx.is_inexact_array(x) for x in jtu.tree_leaves(model)):
        raise ValueError(
            "the model has no parameters, which are arrays of real or complex floating "
            "point: make its numbers arrays, such as with `jnp.asarray`"
        )
    if given.key is not None:
        given = given._replace(key=jax.random.fold_in(given.key, batches_taken(opt)))

    def evaluated(model: PyTree, state: PyTree, given: Given) -> tuple[Array, Returned]:
        returned = called(loss_fn, has_aux, model, state, given, residuals)
        return returned.loss, returned

    scaling = scaling_of(opt)

    def scaled(model: PyTree, state: PyTree, given: Given) -> tuple[Array, Returned]:
        loss, returned = evaluated(model, state, given)
        if scaling is not None:
            # In float32 at least: the scaled loss may be too large for float16.
            loss = widen(loss) * scaling.scale.astype(widen(loss).dtype)
        return loss, returned

    gradient = eqx.filter_value_and_grad(scaled, has_aux=True)
    if microbatches == 1:
        (_, returned), grads = gradient(model, state, given)
    else:
        returned, grads = _over_parts(
            gradient, model, state, given, microbatches, on_mesh
        )
    # JAX's gradient of a complex parameter is the conjugate of what points uphill.
    grads = jtu.tree_map(lambda g: g.conj() if jnp.iscomplexobj(g) else g, grads)
    residual_fn = lambda model: evaluated(model, state, given)[1].residuals
    model, opt = opt.apply(
        grads,
        model,
        value=returned.loss,
        value_fn=lambda model: evaluated(model, state, given)[0],
        residual_fn=residual_fn if residuals else None,
    )
    out = returned._replace(state=None, residuals=None)
    return (model, opt, returned.state), out


def batches_taken(opt: AbstractOptimizer) -> Int[Array, ""]:
    """The number of steps that an optimizer was used in."""
    return opt.calls if isinstance(opt, Accumulate) else count_of(opt)


def check_microbatches(caller: str, microbatches: int, residuals: bool) -> None:
    if microbatches < 1:
        raise ValueError(f"{caller}: microbatches={microbatches} must be at least 1")
    if residuals and microbatches > 1:
        raise ValueError(
            f"{caller}: with residuals=True a step takes the batch as a whole, and not "
            f"in microbatches={microbatches}"
        )


def check_optimizer(caller: str, opt: Any) -> None:
    if not isinstance(opt, AbstractOptimizer):
        raise TypeError(
            f"{caller} needs an optimizer, such as `opt = eqxopt.AdamW(1e-3).init("
            f"model)`, not {opt!r}"
        )
    if shape := count_of(opt).shape:
        raise ValueError(
            f"{caller} trains one model, but the count of this `{type(opt).__name__}` "
            f"has shape {shape}: it is a population. Call a step of your own by "
            "`eqx.filter_vmap`, or train it with `eqxopt.sweep`"
        )


def _over_parts(
    gradient: Callable[..., Any],
    model: PyTree,
    state: PyTree,
    given: Given,
    parts: int,
    on_mesh: bool,
) -> tuple[Returned, PyTree]:
    """The mean loss and gradients over `parts` parts of the batch, computed one after
    the other. The state goes from one part to the next."""
    arrays, static = eqx.partition(given.batch, eqx.is_array)
    _check_rows(arrays, parts)
    split = jtu.tree_map(lambda x: _split(x, parts, on_mesh), arrays)
    first_state, static_state = eqx.partition(state, eqx.is_array)

    def body(carry: PyTree, xs: tuple[Array, PyTree]) -> tuple[PyTree, PyTree]:
        total, state = carry
        i, part = xs
        key = None if given.key is None else jax.random.fold_in(given.key, i)
        own = given._replace(batch=eqx.combine(part, static), key=key)
        (_, out), grads = gradient(model, eqx.combine(state, static_state), own)
        total = jtu.tree_map(lambda t, g: t + widen(g) / parts, total, grads)
        return (total, eqx.filter(out.state, eqx.is_array)), (out.loss, out.aux)

    zeros = jtu.tree_map(
        lambda x: jnp.zeros_like(widen(x)), eqx.filter(model, eqx.is_inexact_array)
    )
    (grads, last_state), (losses, aux) = jax.lax.scan(
        body, (zeros, first_state), (jnp.arange(parts), split)
    )
    new_state = eqx.combine(last_state, static_state)
    return Returned(jnp.mean(losses), new_state, aux), grads


def _check_rows(arrays: PyTree, parts: int) -> None:
    rows = [
        (jtu.keystr(path), x.shape[0])
        for path, x in jtu.tree_leaves_with_path(arrays)
        if x.ndim > 0
    ]
    for path, n in rows:
        first_path, first = rows[0]
        if n != first:
            raise ValueError(
                f"the batch has {first} rows at {first_path}, but {n} at {path}. All "
                "positional arguments after the optimizer are the batch, and are split "
                "into microbatches: pass what is no part of it by a keyword"
            )
        if n % parts:
            raise ValueError(
                f"the batch at {path} has {n} rows, which do not split into {parts} "
                "microbatches"
            )


def _split(x: Array, parts: int, on_mesh: bool) -> Array:
    if x.ndim == 0:
        return jax.random.split(x, parts) if is_key(x) else jnp.full(parts, x)
    rows = x.shape[0] // parts
    if not on_mesh:
        return x.reshape(parts, rows, *x.shape[1:])
    # The i-th part has every `parts`-th row, from the i-th on. So each device finds its
    # rows of a part among its rows of the batch.
    return jnp.swapaxes(x.reshape(rows, parts, *x.shape[1:]), 0, 1)
