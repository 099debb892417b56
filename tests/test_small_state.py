"""Optimizers whose state is smaller than the model: its shapes, and its options."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

import eqxopt


def test_memory_of_adafactor():
    params = {"matrix": jnp.ones((200, 3, 130)), "vector": jnp.ones(200)}
    state = eqxopt.Adafactor().init(params).state
    assert state["matrix"].row.shape == (3, 130)
    assert state["matrix"].col.shape == (200, 3)
    assert state["vector"].nu.shape == (200,)
    assert state["matrix"].mu is None and state["vector"].mu is None


def test_memory_of_sm3():
    opt = eqxopt.SM3(0.1, momentum=None).init(jnp.ones((30, 40, 50)))
    assert [mu.shape for mu in opt.state.bounds] == [(30,), (40,), (50,)]
    assert opt.state.mean is None


def test_default_blocks_of_adam_mini():
    key = jax.random.key(0)
    model = {
        "linear": eqx.nn.Linear(3, 4, key=key),
        "convolution": eqx.nn.Conv2d(3, 4, 2, key=key),
        "norm": eqx.nn.LayerNorm(5),
    }
    state = eqxopt.AdamMini(0.1).init(model).state
    assert state["linear"].weight.nu.shape == (4,)
    assert state["linear"].bias.nu.shape == (4,)
    assert state["convolution"].weight.nu.shape == (4,)
    assert state["convolution"].bias.nu.shape == (4,)
    assert state["norm"].weight.nu.shape == ()
    assert state["norm"].bias.nu.shape == (5,)


def test_blocks_that_do_not_fit():
    params = {"w": jnp.ones((6, 4))}
    with pytest.raises(ValueError, match=r"AdamMini.blocks`, for \['w'\], of.*is 5"):
        eqxopt.AdamMini(0.1, blocks=5).init(params)
    for bad in ("head", True, 0, 2.0):
        with pytest.raises(TypeError, match="'tensor', 'row', 'entry', or a number"):
            eqxopt.AdamMini(0.1, blocks={"w": bad})
