"""One large parameter: a step is bound by memory, and donated buffers are reused."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

import eqxopt

from .timing import Figure, interleaved


def large_array(
    name: str,
    opt: eqxopt.AbstractOptimizer,
    tx: optax.GradientTransformation,
    *,
    side: int,
    bar: float,
) -> Figure:
    keys = jax.random.split(jax.random.key(0))
    grads = jax.random.normal(keys[0], (side, side))

    @jax.jit
    def start():
        return jax.random.normal(keys[1], (side, side))

    def our_step(params, opt, grads):
        return opt.apply(grads, params)

    def their_step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params = start()
    ours = _carried(our_step, params, opt.init(params), grads)
    params = start()
    theirs = _carried(their_step, params, tx.init(params), grads)
    return interleaved(
        f"{name}, {side * side / 1e6:.1f}M entries, donated", ours, theirs, bar=bar
    )


def _carried(step: Callable, params, state, grads) -> Callable[[], jax.Array]:
    compiled = jax.jit(step, donate_argnums=(0, 1))
    carry = (params, state)

    def run() -> jax.Array:
        nonlocal carry
        carry = compiled(*carry, grads)
        return carry[0]

    return run


def copy_time(side: int) -> Figure:
    """Reading and writing the array once, as the measure of the memory."""
    x = jnp.zeros((side, side))
    copy = jax.jit(lambda x: x + 1)
    return interleaved(
        f"copy of {side * side / 1e6:.1f}M entries", lambda: copy(x), lambda: copy(x)
    )
