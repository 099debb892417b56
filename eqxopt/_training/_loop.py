"""The compiled loop of `fit`, and that of `sweep`."""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array

from ._chunks import Chunk
from ._compiled_step import CompiledStep
from ._layout import in_layout, Layout
from ._loss import called, Given
from ._step import Carry, training_step


@functools.cache
def shared_loop(has_aux: bool, residuals: bool, microbatches: int) -> CompiledStep:
    """The loop of all calls, so that a second one compiles nothing."""
    return new_loop(has_aux, residuals, microbatches)


def new_loop(has_aux: bool, residuals: bool, microbatches: int) -> CompiledStep:
    return CompiledStep(loop_of(has_aux, residuals, microbatches), donate=False)


def loop_of(
    has_aux: bool, residuals: bool, microbatches: int = 1
) -> Callable[[Carry, Any, Layout | None], Any]:
    """A loop of `n` steps, to be compiled.

    `n` is an argument of the program, so that fewer steps than a chunk has compile
    nothing.
    """

    def loop(carry: Carry, args: Any, layout: Layout | None) -> tuple[Carry, Any]:
        loss_fn, key, chunk, n = args
        arrays, static = eqx.partition(carry, eqx.is_array)

        def given(i: Array) -> Given:
            batch = chunk.batch(i)
            batch = batch if isinstance(batch, tuple) else (batch,)
            return Given(batch, {}, key)

        def body(i: Array, loop_state: Any) -> Any:
            arrays, columns = loop_state
            carry, out = training_step(
                loss_fn,
                eqx.combine(arrays, static),
                given(i),
                has_aux=has_aux,
                residuals=residuals,
                microbatches=microbatches,
                on_mesh=layout is not None,
            )
            columns = jtu.tree_map(
                lambda column, x: column.at[i].set(x.astype(column.dtype)),
                columns,
                (out.loss, _means(out.aux or {})),
            )
            return eqx.filter(in_layout(carry, layout), eqx.is_array), columns

        columns = jnp.zeros(chunk.length, float), {}
        if has_aux:
            first = jnp.zeros((), jnp.int32)
            evaluate = lambda: called(
                loss_fn, True, carry[0], carry[2], given(first), residuals
            )
            aux = eqx.filter_eval_shape(evaluate).aux
            columns = columns[0], _columns(aux, chunk, microbatches > 1)
        arrays, columns = jax.lax.fori_loop(0, n, body, (arrays, columns))
        return eqx.combine(arrays, static), columns

    return loop


def _means(aux: dict[str, Array]) -> dict[str, Array]:
    """Of several microbatches the mean."""
    return {name: jnp.mean(x) if x.ndim else x for name, x in aux.items()}


def _columns(aux: Any, chunk: Chunk, means: bool) -> dict[str, Array]:
    if not isinstance(aux, dict):
        raise TypeError(
            "beside the loss, the loss function must give a dictionary of named "
            f"scalars, such as `{{'accuracy': ...}}`, not a `{type(aux).__name__}`"
        )
    for name, x in aux.items():
        if not hasattr(x, "shape") or x.shape != ():
            raise ValueError(
                f"`aux[{name!r}]` must be a scalar array, but "
                + (f"has shape {x.shape}" if hasattr(x, "shape") else f"is {x!r}")
            )
    # The mean of integers is none.
    keeps = lambda x: not means or jnp.issubdtype(x.dtype, jnp.inexact)
    return {
        name: jnp.zeros(chunk.length, x.dtype if keeps(x) else float)
        for name, x in aux.items()
    }
