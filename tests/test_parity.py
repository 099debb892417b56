"""The numbers of optax: 25 steps on a nested model."""

import jax.numpy as jnp
import pytest
from cases import OPTIMIZERS
from paper import PAPER
from parity import PARITY
from problems import nested_params
from training_loops import assert_close, trained, trained_by_optax

import eqxopt


VARIANTS = [(name, i) for name, pairs in PARITY.items() for i in range(len(pairs))]


def assert_parity(pair, params, rtol):
    """Each trains on its own path."""
    ours, theirs = pair
    *_, (_, got) = trained(ours(), params)
    *_, (_, expected) = trained_by_optax(theirs(), params)
    assert_close(got, expected, rtol)


@pytest.mark.parametrize("name, variant", VARIANTS)
def test_float64(name, variant, x64):
    assert_parity(PARITY[name][variant], nested_params(jnp.float64, large=True), 1e-10)


@pytest.mark.parametrize("name", PARITY)
def test_float32(name):
    assert_parity(PARITY[name][0], nested_params(), 1e-5)


def test_every_optimizer_is_beside_optax_or_a_paper():
    """But those of second order, whose iterates are compared on problems of their
    kind."""
    second_order = {
        name
        for name in OPTIMIZERS
        if "._curvature." in getattr(eqxopt, name).__module__
    }
    assert PARITY.keys() | PAPER.keys() | second_order == OPTIMIZERS.keys()
