"""Every optimizer reaches its stated loss on every landscape in its stated steps."""

import jax
import pytest
from cases import CASES
from landscape_table import TABLE
from landscapes import LANDSCAPES, trained

import eqxopt


def test_every_optimizer_is_in_the_table():
    assert set(TABLE) == set(CASES)
    assert all(set(row) == set(LANDSCAPES) for row in TABLE.values())


@pytest.mark.parametrize("name", TABLE)
def test_landscapes(name):
    make = getattr(eqxopt, name)
    run = jax.jit(lambda *args: trained(make, *args))
    losses = {}
    for i, (landscape, goal) in enumerate(TABLE[name].items()):
        losses[landscape] = float(run(i, goal.rate, goal.steps))
    missed = {
        landscape: loss
        for landscape, loss in losses.items()
        if not loss <= TABLE[name][landscape].loss
    }
    assert not missed
