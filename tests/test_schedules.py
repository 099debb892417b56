"""Schedules: the numbers of optax, and live numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import eqxopt
from eqxopt import schedules


PAIRS = {
    "Constant": (lambda: schedules.Constant(0.3), lambda: optax.constant_schedule(0.3)),
    "Linear": (
        lambda: schedules.Linear(1.0, 0.1, 50, 20),
        lambda: optax.linear_schedule(1.0, 0.1, 50, 20),
    ),
    "CosineDecay": (
        lambda: schedules.CosineDecay(0.5, 150, 0.1, 1.5),
        lambda: optax.cosine_decay_schedule(0.5, 150, 0.1, 1.5),
    ),
    "WarmupCosineDecay": (
        lambda: schedules.WarmupCosineDecay(0.1, 1.0, 20, 150, 0.05, 2.0),
        lambda: optax.warmup_cosine_decay_schedule(0.1, 1.0, 20, 150, 0.05, 2.0),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_optax_parity(name, x64):
    ours, theirs = (make() for make in PAIRS[name])
    steps = jnp.arange(200)
    with jax.numpy_dtype_promotion("standard"):
        expected = jax.vmap(theirs)(steps.astype(float))
    np.testing.assert_allclose(jax.vmap(ours)(steps), expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", PAIRS)
def test_numbers_are_live(name):
    """They are array leaves, so a batch of schedules is a batch of numbers; and every
    derivative is finite at every step."""
    schedule = PAIRS[name][0]()
    scaled = jax.tree.map(lambda x: x * jnp.asarray([1.0, 0.9]), schedule)
    batched = jax.vmap(lambda s: s(30))(scaled)
    assert batched.shape == (2,)
    np.testing.assert_allclose(batched[0], schedule(30), rtol=1e-6)
    slopes = jax.vmap(jax.grad(lambda s, t: s(t)), (None, 0))(schedule, jnp.arange(200))
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(slopes))


def test_without_warm_up():
    schedule = schedules.WarmupCosineDecay(0.0, 1.0, 0, 10)
    assert schedule(0) == 1.0


def test_range():
    with pytest.raises(ValueError, match=r"`Linear\(transition_steps=0.0\)`.*\(0, inf"):
        schedules.Linear(0.0, 1.0, 0)


def test_first_update_sees_step_zero():
    params = jnp.ones(())
    opt = eqxopt.SGD(schedules.Linear(1.0, 0.0, 2)).init(params)
    rates = []
    for _ in range(3):
        new, opt = opt.apply(jnp.ones(()), params)
        rates.append(float(params - new))
    assert rates == [1.0, 0.5, 0.0]


def test_function_is_wrapped():
    opt = eqxopt.SGD(lambda step: 0.5 ** step.astype(float))
    assert isinstance(opt.learning_rate, schedules.Custom)
    assert opt.hyperparameters()["learning_rate"] == 1.0
