"""Saved and loaded into a fresh `init`, the next step is bit-equal."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from cases import OPTIMIZERS
from problems import curved, Model


def trained(name):
    model = Model()
    opt = OPTIMIZERS[name].make().replace().init(model)
    grads = eqx.filter(model, eqx.is_inexact_array)
    for _ in range(2):
        model, opt = opt.apply(grads, model, value=1.0, value_fn=curved)
    return model, opt


def assert_same_next_step(one, other):
    results = []
    for model, opt in (one, other):
        grads = jax.tree.map(jnp.sin, eqx.filter(model, eqx.is_inexact_array))
        after = opt.apply(grads, model, value=0.5, value_fn=curved)
        results.append(
            [np.asarray(x) for x in jax.tree.leaves(eqx.filter(after, eqx.is_array))]
        )
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_saved_and_loaded(name, tmp_path):
    """By equinox, model and optimizer; and by orbax, the optimizer."""
    model, opt = trained(name)
    other = Model(jax.random.key(1))
    fresh = OPTIMIZERS[name].make().init(other)

    eqx.tree_serialise_leaves(tmp_path / "checkpoint.eqx", (model, opt))
    loaded = eqx.tree_deserialise_leaves(tmp_path / "checkpoint.eqx", (other, fresh))
    assert_same_next_step((model, opt), loaded)

    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "checkpoint", opt)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "checkpoint", fresh)
    assert_same_next_step((model, opt), (model, restored))
