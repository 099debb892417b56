"""The numbers of optax: 25 steps on a nested model."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import CASES
from parity import PARITY
from problems import nested_loss, nested_params


# Not in optax, or not as in the paper: these have a `test_paper_*.py` instead; and
# L-BFGS, whose iterates are compared on problems of its kind in `test_lbfgs.py`.
ONLY_HERE = {
    "AcProp",
    "AdamMini",
    "Adan",
    "APOLLO",
    "CAME",
    "GaLore",
    "KLShampoo",
    "LaProp",
    "LBFGS",
    "MARS",
    "NorMuon",
    "PSGDKron",
    "Scion",
    "Shampoo",
    "SOAP",
    "StableAdamW",
}
VARIANTS = [(name, i) for name, pairs in PARITY.items() for i in range(len(pairs))]


def trained(opt, tx, params, steps):
    """The parameters after `steps` of ours and of theirs, each on its own path."""

    @jax.jit
    def our_step(step, params, opt):
        value, grads = jax.value_and_grad(nested_loss)(params, step)
        value_fn = lambda params: nested_loss(params, step)
        return opt.apply(grads, params, value=value, value_fn=value_fn)

    @jax.jit
    def their_step(step, params, state):
        value, grads = jax.value_and_grad(nested_loss)(params, step)
        tx_ = optax.with_extra_args_support(tx)
        obj_fn = lambda params: nested_loss(params, step)
        updates, state = tx_.update(grads, state, params, value=value, obj_fn=obj_fn)
        return optax.apply_updates(params, updates), state

    ours = theirs = params
    opt, state = opt.init(ours), tx.init(theirs)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for step in range(steps):
            theirs, state = their_step(jnp.asarray(step, float), theirs, state)
    for step in range(steps):
        ours, opt = our_step(jnp.asarray(step, float), ours, opt)
    return ours, theirs


def assert_close(ours, theirs, rtol):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.max(np.abs(b)))


@pytest.mark.parametrize("name, variant", VARIANTS)
def test_float64(name, variant, x64):
    ours, theirs = PARITY[name][variant]
    params = nested_params(jnp.float64, large=True)
    assert_close(*trained(ours(), theirs(), params, 25), rtol=1e-10)


@pytest.mark.parametrize("name", PARITY)
def test_float32(name):
    ours, theirs = PARITY[name][0]
    assert_close(*trained(ours(), theirs(), nested_params(), 25), rtol=1e-5)


def test_every_optimizer_has_a_pair():
    assert PARITY.keys() | ONLY_HERE == CASES.keys()
    assert PARITY.keys().isdisjoint(ONLY_HERE)
