"""State in other places than the parameters: in shards of its own, and on the host."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training_loops import assert_close

import eqxopt


OPTIMIZERS = {
    "AdamW": lambda: eqxopt.AdamW(0.01),
    "8-bit": lambda: eqxopt.CompactState(eqxopt.AdamW(0.01), "8-bit", min_size=1),
    "MasterWeights": lambda: eqxopt.MasterWeights(eqxopt.AdamW(0.01)),
}
every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


def model_on(mesh):
    """Parameters and gradients that every device has."""
    everywhere = jax.NamedSharding(mesh, jax.P())
    keys = jax.random.split(jax.random.key(0), (2, 2))
    params, grads = (
        {
            "w": jax.random.normal(row[0], (64, 32), jnp.bfloat16),
            "b": jax.random.normal(row[1], (32,), jnp.bfloat16),
        }
        for row in keys
    )
    return *jax.device_put((params, grads), everywhere), everywhere


def in_rows(mesh, tree, kind=None):
    """For each array its shards: rows where they can be shared out."""

    def place(x):
        rows = jax.P("data") if x.ndim and x.shape[0] % mesh.size == 0 else jax.P()
        return jax.NamedSharding(mesh, rows, memory_kind=kind if x.ndim else None)

    return jax.tree.map(place, tree)


def step(params, opt, grads):
    return opt.apply(grads, params)


@every_optimizer
def test_state_in_shards(name):
    """ZeRO-1: every device has the parameters and an eighth of the state."""
    mesh = jax.make_mesh((8,), ("data",), (jax.sharding.AxisType.Auto,))
    params, grads, everywhere = model_on(mesh)
    opt = OPTIMIZERS[name]().init(params, in_stacks=False)
    expected = params, opt
    places = in_rows(mesh, opt)
    sharded = params, jax.device_put(opt, places)
    plain = jax.jit(step)
    zero = jax.jit(step, out_shardings=(everywhere, places))
    for _ in range(3):
        expected = plain(*expected, grads)
        sharded = zero(*sharded, grads)
    assert_close(sharded[0], expected[0], 1e-2)
    assert zero._cache_size() == 1
    for x in jax.tree.leaves(sharded[1]):
        if x.ndim and x.shape[0] % 8 == 0:
            assert x.addressable_shards[0].data.size == x.size // 8
    for x in jax.tree.leaves(sharded[0]):
        assert x.sharding.is_fully_replicated


@every_optimizer
def test_state_on_the_host(name):
    """Between two steps the state is in the host's memory."""
    mesh = jax.make_mesh((1,), ("data",), (jax.sharding.AxisType.Auto,))
    kinds = {memory.kind for memory in jax.devices()[0].addressable_memories()}
    if "pinned_host" not in kinds:
        pytest.skip("this backend has one kind of memory")
    params, grads, _ = model_on(mesh)
    opt = OPTIMIZERS[name]().init(params, in_stacks=False)
    on_host, on_device = in_rows(mesh, opt, "pinned_host"), in_rows(mesh, opt)

    @jax.jit
    def offloaded(params, opt, grads):
        params, opt = step(params, jax.device_put(opt, on_device), grads)
        return params, jax.device_put(opt, on_host)

    expected = params, opt
    got = params, jax.device_put(opt, on_host)
    for _ in range(3):
        expected = jax.jit(step)(*expected, grads)
        got = offloaded(*got, grads)
    assert_close(jax.device_get(got[0]), jax.device_get(expected[0]), 1e-2)
    for x in jax.tree.leaves(got[1]):
        if x.ndim:
            assert x.sharding.memory_kind == "pinned_host"
    assert np.all(np.isfinite(np.asarray(got[0]["w"], np.float32)))
