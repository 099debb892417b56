"""The numbers of optax, in float64, over 20 steps."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import eqxopt


@pytest.fixture(autouse=True)
def _x64():
    with jax.enable_x64(True):
        yield


def params():
    keys = jax.random.split(jax.random.key(0), 4)
    return {
        "scalar": jax.random.normal(keys[0], (), dtype=jnp.float64),
        "layers": [
            jax.random.normal(keys[1], (3,), dtype=jnp.float64),
            jax.random.normal(keys[2], (4, 3), dtype=jnp.float64),
        ],
        "kernel": jax.random.normal(keys[3], (2, 2, 3, 4), dtype=jnp.float64),
    }


def loss(params, step):
    leaves = jax.tree.leaves(params)
    return sum(jnp.sum(jnp.cos(x * (1 + 0.1 * step)) + 0.1 * x**2) for x in leaves)


MASK = {"scalar": False, "layers": True, "kernel": False}
CASES = {
    "SGD": (eqxopt.SGD(0.1), optax.sgd(0.1)),
    "SGD-momentum": (eqxopt.SGD(0.1, 0.8), optax.sgd(0.1, 0.8)),
    "SGD-nesterov": (eqxopt.SGD(0.1, 0.8, True), optax.sgd(0.1, 0.8, True)),
    "Adam": (
        lambda: eqxopt.Adam(0.1, 0.8, 0.95, 1e-4, 1e-6),
        optax.adam(0.1, 0.8, 0.95, 1e-4, 1e-6),
    ),
    "Adam-nesterov": (
        lambda: eqxopt.Adam(0.1, nesterov=True),
        optax.adam(0.1, nesterov=True),
    ),
    "AdamW": (
        lambda: eqxopt.AdamW(
            eqxopt.schedules.WarmupCosineDecay(0.0, 0.1, 5, 18, 0.01, 2.0),
            0.8,
            weight_decay=0.1,
            mask=MASK,
        ),
        optax.adamw(
            optax.warmup_cosine_decay_schedule(0.0, 0.1, 5, 18, 0.01, 2.0),
            0.8,
            weight_decay=0.1,
            mask=MASK,
        ),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_optax_parity(name):
    make, theirs = CASES[name]
    ours = make if isinstance(make, eqxopt.AbstractOptimizer) else make()
    ours = jax.tree.map(lambda x: jnp.asarray(x, dtype=jnp.float64), ours)
    p = q = params()
    if name.startswith("SGD"):
        ours = ours.replace(learning_rate=0.1, momentum=None if name == "SGD" else 0.8)
    ours, state = ours.init(p), theirs.init(q)
    for step in range(25):
        p, ours = ours.apply(jax.grad(loss)(p, step), p)
        updates, state = theirs.update(jax.grad(loss)(q, step), state, q)
        q = optax.apply_updates(q, updates)
    for a, b in zip(jax.tree.leaves(p), jax.tree.leaves(q)):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def test_apply_before_init():
    model = eqx.nn.Linear(2, 2, key=jax.random.key(0))
    with pytest.raises(ValueError, match="`AdamW` has no state: call"):
        eqxopt.AdamW(1e-3).apply(model, model)
