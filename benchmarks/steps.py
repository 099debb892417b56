"""A whole training step of a small model, in the loops that people write."""

from collections.abc import Callable

import equinox as eqx
import jax
import numpy as np
import optax

import eqxopt

from .models import loss, ResidualMLP
from .timing import Figure, interleaved


STEPS = 200
ROWS, BATCH = 2048, 32


def plain_loops(*, bar: float) -> list[Figure]:
    """The loop that the README shows, beside that of optax; times are of one step.

    The layers are small, as in the models of many Equinox users.
    """
    return [_plain_loop(leaves, width=32, bar=bar) for leaves in (60, 300)]


def _plain_loop(leaves: int, *, width: int, bar: float) -> Figure:
    tx = optax.adamw(1e-3)
    steps = 12_000 // leaves
    x = jax.random.normal(jax.random.key(1), (BATCH, width))
    model = ResidualMLP(leaves, width, key=jax.random.key(0))

    @eqx.filter_jit
    def our_step(model, opt, x):
        value, grads = eqx.filter_value_and_grad(loss)(model, x)
        model, opt = opt.apply(grads, model)
        return model, opt, value

    def looped(step, *carry):
        def run():
            for _ in range(steps):
                *run.carry, value = step(*run.carry, x)
            return value

        run.carry = carry
        return run

    state = tx.init(eqx.filter(model, eqx.is_inexact_array))
    return interleaved(
        f"{leaves} leaves, a step: plain loop",
        looped(our_step, model, eqxopt.AdamW(1e-3).init(model)),
        looped(_usual_step(tx), model, state),
        bar=bar,
        per=steps,
    )


def _usual_step(tx: optax.GradientTransformation):
    """A step of optax, as people write it."""

    @eqx.filter_jit
    def step(model, state, x):
        value, grads = eqx.filter_value_and_grad(loss)(model, x)
        params = eqx.filter(model, eqx.is_inexact_array)
        updates, state = tx.update(grads, state, params)
        return eqx.apply_updates(model, updates), state, value

    return step


def training_steps(leaves: int, *, bars: tuple[float, float]) -> list[Figure]:
    """`make_step` and `fit` beside the usual loop; times are of one step.

    `fit` is timed for short and long runs, with batches from a list and with data in
    memory: what it does once a call counts in each.
    """
    data = np.random.default_rng(1).normal(size=(ROWS, 16)).astype(np.float32)
    key = jax.random.key(2)
    x = jax.device_put(data[:BATCH])
    tx = optax.adamw(1e-3)

    usual_step = _usual_step(tx)

    def fresh():
        return ResidualMLP(leaves, key=jax.random.key(0))

    def usual(steps: int) -> Callable[[], jax.Array]:
        def run():
            model, state = run.carry
            for _ in range(steps):
                model, state, value = usual_step(model, state, x)
            run.carry = model, state
            return value

        run.carry = fresh(), tx.init(eqx.filter(fresh(), eqx.is_inexact_array))
        return run

    def made():
        model, opt = made.carry
        for _ in range(STEPS):
            model, opt, value = step(model, opt, x)
        made.carry = model, opt
        return value

    def fitted(steps: int, in_memory: bool) -> Callable[[], np.ndarray]:
        options = {"batch_size": BATCH, "key": key} if in_memory else {}
        starts = np.arange(steps) * BATCH % ROWS
        batches = data if in_memory else [data[i : i + BATCH] for i in starts]

        def run():
            *run.carry, history = eqxopt.fit(
                loss, *run.carry, batches, steps=steps, progress=False, **options
            )
            return history.loss

        run.carry = fresh(), eqxopt.AdamW(1e-3).init(fresh())
        return run

    step = eqxopt.make_step(loss)
    made.carry = fresh(), eqxopt.AdamW(1e-3).init(fresh())
    one = f"{leaves} leaves, a step"
    figures = [
        interleaved(f"{one}: make_step", made, usual(STEPS), bar=bars[0], per=STEPS)
    ]
    for steps in (100, 1000):
        for in_memory in (False, True):
            source = "data in memory" if in_memory else "a list"
            figures.append(
                interleaved(
                    f"{one}: fit, {source}, {steps} steps",
                    fitted(steps, in_memory),
                    usual(steps),
                    bar=bars[1] if steps == 1000 else None,
                    per=steps,
                )
            )
    return figures
