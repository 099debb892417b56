"""States of small parameters in stacks, and each on its own: where stacks pay.

"ours" is with stacks, and "peer" with `init(model, in_stacks=False)`.
"""

from collections.abc import Callable
from typing import Any
from unittest import mock

import equinox as eqx
import jax
import numpy as np

import eqxopt

from .models import loss, random_like, ResidualMLP
from .timing import Figure, interleaved


STEPS = 100


def stacks() -> list[Figure]:
    figures = [_update(count, 16) for count in (2, 4, 8, 20, 60)]
    figures += [_update(20, width) for width in (32, 64, 90, 128, 256)]
    return figures + _loops(60, width=16) + _loops(60, width=64)


def _update(count: int, width: int) -> Figure:
    """An update of AdamW, with stacks whatever the size."""
    keys = jax.random.split(jax.random.key(0), count)
    model = [jax.random.normal(key, (width, width)) for key in keys]
    grads = random_like(model, jax.random.key(1))
    with mock.patch("eqxopt._abstract.groups.LARGEST", width**2):
        stacked = eqxopt.AdamW(1e-3).init(model)
    alone = eqxopt.AdamW(1e-3).init(model, in_stacks=False)
    step = jax.jit(lambda model, opt: opt.apply(grads, model), donate_argnums=(0, 1))
    return interleaved(
        f"update of {count} arrays of {width} × {width}",
        _repeated(step, model, stacked),
        _repeated(step, model, alone),
        repeats=40,
        warm_up=3,
        per=STEPS,
    )


def _repeated(step: Callable[..., Any], model: Any, opt: Any) -> Callable[[], Any]:
    def run():
        for _ in range(STEPS):
            run.carry = step(*run.carry)
        return run.carry

    run.carry = jax.tree.map(jax.numpy.copy, (model, opt))
    return run


def _loops(leaves: int, *, width: int) -> list[Figure]:
    """Whole training steps, in each of the loops that the docs show."""
    batch = np.random.default_rng(1).normal(size=(32, width)).astype(np.float32)
    x = jax.device_put(batch)

    @eqx.filter_jit
    def plain_step(model, opt, x):
        value, grads = eqx.filter_value_and_grad(loss)(model, x)
        model, opt = opt.apply(grads, model)
        return model, opt, value

    made_step = eqxopt.make_step(loss)

    def fitted_steps(model, opt):
        model, opt, history = eqxopt.fit(
            loss, model, opt, [batch] * STEPS, progress=False
        )
        return model, opt, history.loss

    def looped(step):
        def steps(model, opt):
            for _ in range(STEPS):
                model, opt, value = step(model, opt, x)
            return model, opt, value

        return steps

    def runner(steps, in_stacks):
        def run():
            *run.carry, value = steps(*run.carry)
            return value

        model = ResidualMLP(leaves, width, key=jax.random.key(0))
        run.carry = model, eqxopt.AdamW(1e-3).init(model, in_stacks=in_stacks)
        return run

    loops = {
        "plain loop": looped(plain_step),
        "make_step": looped(made_step),
        "fit": fitted_steps,
    }
    return [
        interleaved(
            f"{leaves} leaves of width {width}, a step: {name}",
            runner(steps, True),
            runner(steps, False),
            per=STEPS,
        )
        for name, steps in loops.items()
    ]
