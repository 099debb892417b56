"""Optimizers on their way: averaged, exported, and where nothing may be transferred."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import OPTIMIZERS, WRAPPERS

import eqxopt


CASES = {name: case.make for name, case in (OPTIMIZERS | WRAPPERS).items()}
SOME = ["AdamW", "SGD", "NoisySGD", "Muon", "SOAP", "PSGDKron", "LBFGS", "DoG"]
SOME += ["ScheduleFreeAdamW", "EMA", "Accumulate", "SkipOnSpike", "ReduceOnPlateau"]


def start():
    return {"w": jnp.full((3, 2), 0.5), "b": jnp.ones(3)}


def loss_of(params):
    return jnp.sum(jnp.square(params["w"])) + jnp.sum(jnp.square(params["b"]))


def step(params, opt):
    value, grads = jax.value_and_grad(loss_of)(params)
    return opt.apply(grads, params, value=value, value_fn=loss_of)


def mean(a, b):
    """As the page on the contract has it."""
    return (a + b) / 2 if jnp.issubdtype(a.dtype, jnp.inexact) else a.copy()


@pytest.mark.parametrize("name", SOME)
def test_average_of_two_optimizers(name):
    one = step(*step(start(), CASES[name]().init(start())))
    two = step(*step(start(), CASES[name]().init(start())))
    params, opt = jax.tree.map(mean, one, two)
    for x, y in zip(jax.tree.leaves(opt), jax.tree.leaves(one[1])):
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
        np.testing.assert_allclose(x, y, rtol=1e-6)
    averaged, _ = step(params, opt)
    expected, _ = step(*one)
    for x, y in zip(jax.tree.leaves(averaged), jax.tree.leaves(expected)):
        np.testing.assert_allclose(x, y, rtol=1e-5)


@pytest.mark.parametrize("name", SOME)
def test_an_average_of_everything_is_named(name):
    opt = CASES[name]().init(start())
    with jax.numpy_dtype_promotion("standard"):
        opt = jax.tree.map(lambda a, b: (a + b) / 2, opt, opt)
    with pytest.raises(TypeError, match=r"count` has dtype float32.*jax.tree.map"):
        step(start(), opt)
    with pytest.raises(TypeError, match=r"count` has dtype float32"):
        jax.eval_shape(step, start(), opt)


@pytest.mark.parametrize("name", ["AdamW", "Muon", "EMA"])
def test_export(name):
    state = start(), CASES[name]().init(start())
    leaves, structure = jax.tree.flatten(state)

    @jax.jit
    def flat_step(leaves):
        params, opt = jax.tree.unflatten(structure, leaves)
        return jax.tree.leaves(step(params, opt))

    run = jax.export.export(flat_step)(leaves).call
    params, opt = jax.tree.unflatten(structure, run(run(leaves)))
    expected, expected_opt = step(*step(*state))
    assert int(opt.count) == 2
    for x, y in zip(
        jax.tree.leaves((params, opt)), jax.tree.leaves((expected, expected_opt))
    ):
        np.testing.assert_allclose(x, y, rtol=1e-6)


@pytest.mark.parametrize("name", ["SGD", "AdamW", "Muon", "SAM", "EMA", "LBFGS search"])
def test_no_transfers(name):
    params = start()
    make = CASES | {"LBFGS search": lambda: eqxopt.LBFGS()}
    opt = make[name]().init(params)
    value, grads = jax.value_and_grad(loss_of)(params)
    many = jax.tree.map(lambda x: jnp.stack([x, x]), params)
    jax.block_until_ready(jax.vmap(opt.init)(many))
    with jax.transfer_guard("disallow"):
        for _ in range(2):
            if isinstance(opt, eqxopt.LBFGS):
                value, grads = opt.value_and_grad(loss_of, params)
            params, opt = opt.apply(grads, params, value=value, value_fn=loss_of)
            opt.eval_params(params)
        opt.replace()
        if name == "AdamW":
            opts = jax.vmap(lambda x: opt.apply(x, x)[0])(many)
            jax.block_until_ready(opts)
    assert eqx.tree_equal(jax.tree.structure(params), jax.tree.structure(start()))
