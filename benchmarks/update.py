"""The AdamW update of a model of many small parameters: what each phase costs."""

import equinox as eqx
import jax
import optax

import eqxopt

from .models import random_like, ResidualMLP
from .timing import Figure, interleaved


def many_leaves(
    leaves: int, *, bars: tuple[float, float, float] | None = None
) -> list[Figure]:
    """Trace and lower, compile, run."""
    model = ResidualMLP(leaves, key=jax.random.key(0))
    grads = random_like(model, jax.random.key(1))
    arrays, static = eqx.partition(model, eqx.is_array)
    opt = eqxopt.AdamW(1e-3).init(model)
    tx = optax.adamw(1e-3)
    state = tx.init(eqx.filter(model, eqx.is_inexact_array))

    def our_step(arrays, opt, grads):
        model, opt = opt.apply(grads, eqx.combine(arrays, static))
        return eqx.filter(model, eqx.is_array), opt

    def their_step(arrays, state, grads):
        updates, state = tx.update(grads, state, arrays)
        return optax.apply_updates(arrays, updates), state

    def lower_ours():
        return jax.jit(lambda *args: our_step(*args)).lower(arrays, opt, grads)

    def lower_theirs():
        return jax.jit(lambda *args: their_step(*args)).lower(arrays, state, grads)

    # Rules are traced through jax's own caches, so these are emptied every time.
    lower = interleaved(
        f"{leaves} leaves: trace and lower",
        lambda: lower_ours() and None,
        lambda: lower_theirs() and None,
        bar=bars and bars[0],
        before=jax.clear_caches,
    )
    # What is lowered keeps its executable, so it is lowered anew every time.
    lowered = {}

    def lower_both():
        lowered.update(ours=lower_ours(), theirs=lower_theirs())

    compile_ = interleaved(
        f"{leaves} leaves: compile",
        lambda: lowered["ours"].compile() and None,
        lambda: lowered["theirs"].compile() and None,
        bar=bars and bars[1],
        warm_up=1,
        before=lower_both,
    )
    ours, theirs = jax.jit(our_step), jax.jit(their_step)
    run = interleaved(
        f"{leaves} leaves: run",
        lambda: ours(arrays, opt, grads),
        lambda: theirs(arrays, state, grads),
        bar=bars and bars[2],
        repeats=100,
        warm_up=10,
    )
    return [lower, compile_, run]


def eager(leaves: int, *, bar: float) -> Figure:
    """A call outside any jit, as in a notebook."""
    model = ResidualMLP(leaves, key=jax.random.key(0))
    grads = random_like(model, jax.random.key(1))
    params = eqx.filter(model, eqx.is_inexact_array)
    opt = eqxopt.AdamW(1e-3).init(model)
    tx = optax.adamw(1e-3)
    state = tx.init(params)

    def theirs():
        updates, new_state = tx.update(grads, state, params)
        return eqx.filter(eqx.apply_updates(model, updates), eqx.is_array), new_state

    def ours():
        new_model, new_opt = opt.apply(grads, model)
        return eqx.filter(new_model, eqx.is_array), new_opt

    return interleaved(f"{leaves} leaves: eager", ours, theirs, bar=bar)
