"""Every optimizer reaches its stated loss on every landscape in its stated steps."""

import jax
import pytest
from cases import OPTIMIZERS
from landscape_table import TABLE
from landscapes import LANDSCAPES, trained

import eqxopt


def test_every_optimizer_is_in_the_table():
    assert set(TABLE) == set(OPTIMIZERS)
    assert all(row.keys() == LANDSCAPES.keys() for row in TABLE.values())


@pytest.mark.parametrize("name", TABLE)
def test_landscapes(name):
    optimizer = getattr(eqxopt, name)

    def make(rate):
        return optimizer() if rate is None else optimizer(learning_rate=rate)

    run = jax.jit(lambda *args: trained(make, *args))
    missed = {}
    for i, landscape in enumerate(LANDSCAPES):
        rate, steps, *own = TABLE[name][landscape]
        (goal,) = own or [LANDSCAPES[landscape].won]
        loss = float(run(i, rate, steps))
        if not loss <= goal:
            missed[landscape] = loss
    assert not missed
