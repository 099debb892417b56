"""A whole training step of a small model, in the loops that people write."""

import equinox as eqx
import jax
import optax

import eqxopt

from .models import loss, ResidualMLP
from .timing import Figure, interleaved


STEPS = 200
# In one program of `fit`.
PER_CALL = 50


def training_steps(leaves: int, *, bars: tuple[float, float]) -> list[Figure]:
    """`make_step` and `fit` beside the usual loop; times are of one step."""
    x = jax.random.normal(jax.random.key(1), (32, 16))
    tx = optax.adamw(1e-3)

    @eqx.filter_jit
    def usual_step(model, state, x):
        value, grads = eqx.filter_value_and_grad(loss)(model, x)
        params = eqx.filter(model, eqx.is_inexact_array)
        updates, state = tx.update(grads, state, params)
        return eqx.apply_updates(model, updates), state, value

    def usual():
        model, state = usual.carry
        for _ in range(STEPS):
            model, state, value = usual_step(model, state, x)
        usual.carry = model, state
        return value

    def made():
        model, opt = made.carry
        for _ in range(STEPS):
            model, opt, value = step(model, opt, x)
        made.carry = model, opt
        return value

    def fitted():
        *fitted.carry, history = eqxopt.fit(
            loss, *fitted.carry, [x] * STEPS, steps_per_call=PER_CALL, progress=False
        )
        return history.loss

    def fresh():
        return ResidualMLP(leaves, key=jax.random.key(0))

    step = eqxopt.make_step(loss)
    usual.carry = fresh(), tx.init(eqx.filter(fresh(), eqx.is_inexact_array))
    made.carry = fresh(), eqxopt.AdamW(1e-3).init(fresh())
    fitted.carry = made.carry
    made.carry = fresh(), eqxopt.AdamW(1e-3).init(fresh())
    names = "make_step", "fit"
    return [
        interleaved(f"{leaves} leaves, a step: {name}", ours, usual, bar=bar, per=STEPS)
        for name, ours, bar in zip(names, (made, fitted), bars)
    ]
