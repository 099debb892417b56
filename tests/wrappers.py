"""The table of wrappers, and how the suites train beside optax."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from problems import nested_loss

import eqxopt


WRAPPERS: dict[str, Callable[[eqxopt.AbstractOptimizer], eqxopt.AbstractOptimizer]] = {
    "Accumulate": lambda inner: eqxopt.Accumulate(inner, 2, drop_nonfinite=True),
    "Cautious": lambda inner: eqxopt.Cautious(inner),
    "CautiousWeightDecay": lambda inner: eqxopt.CautiousWeightDecay(inner, 0.1),
    "DecoupledWeightDecay": lambda inner: eqxopt.DecoupledWeightDecay(inner, 0.1),
    "DecoupledWeightDecay corrected": lambda inner: eqxopt.DecoupledWeightDecay(
        inner, 0.1, convention="corrected", max_learning_rate=0.2
    ),
    "DecoupledWeightDecay independent": lambda inner: eqxopt.DecoupledWeightDecay(
        inner, 0.1, convention="independent"
    ),
    "DecoupledWeightDecay l2": lambda inner: eqxopt.DecoupledWeightDecay(
        inner, 0.1, convention="l2"
    ),
    "EMA": lambda inner: eqxopt.EMA(inner, 0.9),
    "EMA biased": lambda inner: eqxopt.EMA(inner, 0.9, debias=False),
    "Hyperball": lambda inner: eqxopt.Hyperball(inner),
    "Hyperball current": lambda inner: eqxopt.Hyperball(
        inner, 0.05, initial_norm=False
    ),
    "Lookahead": lambda inner: eqxopt.Lookahead(inner, 2, 0.8),
    "Lookahead reset": lambda inner: eqxopt.Lookahead(inner, 2, reset_state=True),
    "Mechanic": lambda inner: eqxopt.Mechanic(inner, s_init=0.1),
    "Monitor": lambda inner: eqxopt.Monitor(inner),
    "ReduceOnPlateau": lambda inner: eqxopt.ReduceOnPlateau(
        inner, 0.5, patience=1, cooldown=1
    ),
    "SAM": lambda inner: eqxopt.SAM(inner),
    "SAM adaptive": lambda inner: eqxopt.SAM(inner, 0.5, adaptive=True),
    "ScheduleFree": lambda inner: eqxopt.ScheduleFree(inner, b1=0.8),
    "ScheduleFree weight_lr": lambda inner: eqxopt.ScheduleFree(inner, 0.1),
    "SkipNonFinite": lambda inner: eqxopt.SkipNonFinite(inner, max_consecutive=2),
    "SkipOnSpike": lambda inner: eqxopt.SkipOnSpike(inner, window=4),
}

INNER: dict[str, Callable[[], eqxopt.AbstractOptimizer]] = {
    "AdamW": lambda: eqxopt.AdamW(0.1, weight_decay=0.1),
    "LAMB": lambda: eqxopt.LAMB(0.1, weight_decay=0.1),
}

STEPS = 25


def bits(tree):
    return [np.asarray(x).tobytes() for x in jax.tree.leaves(tree)]


def assert_close(ours, theirs, rtol=1e-10):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.max(np.abs(b)))


def gradients_at(params, step, spoilt=()):
    value, grads = jax.value_and_grad(nested_loss)(params, float(step))
    if step in spoilt:
        grads["layers"][1] = grads["layers"][1].at[0, 0].set(jnp.nan)
    return value, grads


def trained(opt, params, spoilt=()):
    """The optimizer and the parameters after each step."""
    apply = jax.jit(lambda opt, g, p, value: opt.apply(g, p, value=value))
    opt = opt.init(params)
    for step in range(STEPS):
        value, grads = gradients_at(params, step, spoilt)
        params, opt = apply(opt, grads, params, value)
        yield opt, params


def in_optax(function):
    """Optax does not keep to strict promotion."""

    @functools.wraps(function)
    def run(*args):
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return function(*args)

    return run


@in_optax
def trained_by_optax(tx, params, spoilt=()):
    state, made = tx.init(params), []
    update = jax.jit(lambda g, s, p, value: tx.update(g, s, p, value=value))
    for step in range(STEPS):
        value, grads = gradients_at(params, step, spoilt)
        updates, state = update(grads, state, params, value)
        params = optax.apply_updates(params, updates)
        made.append((state, params))
    return made
