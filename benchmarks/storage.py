"""State and parameters in fewer bits: the time of a step, and bytes a parameter."""

import jax
import jax.numpy as jnp
import optax

import eqxopt

from .large import carried
from .timing import Figure, interleaved


# By form: the bytes of state an entry, and the largest ratio that is promised.
STORAGES = {"float32": None, "bfloat16": None, "packed": 0.85, "8-bit": None}
WRITES = {
    "MasterWeights": eqxopt.MasterWeights,
    "SplitWeights": eqxopt.SplitWeights,
    "CompensatedWeights": eqxopt.CompensatedWeights,
    "StochasticRounding": eqxopt.StochasticRounding,
    "plain": lambda opt: opt,
}


def storage(side: int, *, repeats: int = 20) -> list[Figure]:
    """A donated step of AdamW for one array, beside optax's in float32."""
    n = side * side
    what = f"{n / 1e6:.1f}M entries"
    params = jax.random.normal(jax.random.key(1), (side, side))
    grads = jax.random.normal(jax.random.key(0), (side, side))
    tx = optax.adamw(1e-3)

    def their_step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    def our_step(params, opt, grads):
        return opt.apply(grads, params)

    def measured(name, opt, params, grads, bar=None):
        made = opt.init(params)
        state = sum(x.nbytes for x in jax.tree.leaves(made)) / n
        ours = carried(our_step, params, made, grads)
        del made
        theirs = carried(their_step, wide, tx.init(wide), wide_grads)
        label = f"{name}, {state:.3g} bytes of state, {what}"
        return interleaved(label, ours, theirs, bar=bar, repeats=repeats)

    wide, wide_grads = params, grads
    figures = []
    for name, bar in STORAGES.items():
        opt = eqxopt.CompactState(eqxopt.AdamW(1e-3), name)
        figures.append(measured(f"AdamW, {name}", opt, params, grads, bar))
    params, grads = params.astype(jnp.bfloat16), grads.astype(jnp.bfloat16)
    for name, wrap in WRITES.items():
        opt = wrap(eqxopt.AdamW(1e-3))
        figures.append(measured(f"bfloat16 parameters, {name}", opt, params, grads))
    return figures
