"""Steps of our optimizers, optimistix's and optax's in one form."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import optax
from jaxtyping import Array, Float

import eqxopt


Start = Float[Array, " n"]
Loss = Callable[[Start], Float[Array, ""]]


class Stepped(NamedTuple):
    """What the next step is given, the loss, and the evaluations of this step."""

    carry: Any
    loss: Any = None
    evaluations: Any = 1


class Solver(NamedTuple):
    """What the first step is given, and the step."""

    carry: Any
    step: Callable[[Any], Stepped]


def ours(
    optimizer: eqxopt.AbstractOptimizer,
    loss: Loss,
    y0: Start,
    residual_fn: Callable[[Start], Any] | None = None,
) -> Solver:
    """Each product with a Hessian counts as two evaluations."""

    def step(carry):
        y, opt = carry
        value_and_grad = getattr(opt, "value_and_grad", _value_and_grad)
        value, grads = value_and_grad(loss, y)
        y, opt = opt.apply(
            grads, y, value=value, value_fn=loss, residual_fn=residual_fn
        )
        evaluations = getattr(opt, "evaluations", 1) + 2 * getattr(opt, "products", 0)
        return Stepped((y, opt), opt.value, evaluations)

    return Solver((y0, optimizer.init(y0)), step)


def _value_and_grad(loss: Loss, y: Start) -> tuple[Array, Array]:
    return jax.value_and_grad(loss)(y)


def of_optimistix(solver: Any, fn: Callable[[Start], Any], y0: Start) -> Solver:
    """A step of optimistix is one evaluation, whether its search accepts it or not.
    `fn` gives the loss, or residuals for methods of least squares."""
    with_aux = lambda y, args: (fn(y), None)
    shape = jax.eval_shape(fn, y0)
    state = solver.init(with_aux, y0, None, {}, shape, None, frozenset())
    state, static = eqx.partition(state, eqx.is_array)

    def step(carry):
        y, state = carry
        whole = eqx.combine(state, static)
        y, new, _ = solver.step(with_aux, y, None, {}, whole, frozenset())
        # What is no array never changes, but is another object in each trace.
        leaves = jax.tree.leaves(eqx.filter(new, eqx.is_array))
        state = jax.tree.unflatten(jax.tree.structure(state), leaves)
        return Stepped((y, state), getattr(new.f_info, "f", None))

    return Solver((y0, state), step)


def of_optax(
    tx: optax.GradientTransformationExtraArgs, loss: Loss, y0: Start
) -> Solver:
    value_and_grad = optax.value_and_grad_from_state(loss)

    def step(carry):
        y, state = carry
        value, grads = value_and_grad(y, state=state)
        updates, state = tx.update(
            grads, state, y, value=value, grad=grads, value_fn=loss
        )
        new = optax.tree.get(state, "value")
        evaluations = optax.tree.get(state, "info").num_linesearch_steps
        return Stepped((optax.apply_updates(y, updates), state), new, evaluations)

    return Solver((y0, tx.init(y0)), step)
