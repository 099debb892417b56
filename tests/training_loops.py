"""Training loops, of ours and of optax, and how their results are compared."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from problems import CURVED, nested_loss


STEPS = 25


def bits(tree):
    return [np.asarray(x).tobytes() for x in jax.tree.leaves(tree)]


def avals(tree):
    """Everything about `tree` but the numbers."""
    leaves, treedef = jax.tree.flatten(jax.eval_shape(lambda: tree))
    return treedef, [(x.shape, x.dtype, x.weak_type) for x in leaves]


def arrays(tree):
    return eqx.filter(tree, eqx.is_array)


def assert_equal(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(expected)):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def assert_close(got, expected, rtol=1e-10, atol=None):
    """Equal but for rounding. `atol` is by default `rtol` of the largest entry."""
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(expected)):
        largest = np.max(np.abs(np.asarray(y)), initial=0) if atol is None else 0
        np.testing.assert_allclose(
            x, y, rtol=rtol, atol=rtol * largest if atol is None else atol
        )


@jax.jit
def step(opt, params, grads):
    """One step with given gradients."""
    return opt.apply(grads, params, **CURVED)


donating_step = jax.jit(step.__wrapped__, donate_argnums=(0, 1))


def stepped(opt, params, grads):
    """A step along each of `grads`, in a loop of Python."""
    for g in grads:
        params, opt = step(opt, params, g)
    return params, opt


@jax.jit
def scanned(opt, params, grads):
    """A step along each of `grads`, in a scan."""
    body = lambda carry, g: (step(carry[1], carry[0], g), None)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *grads)
    return jax.lax.scan(body, (params, opt), stacked)[0]


@jax.jit
def last_step(transform, params, grads):
    """One step down the gradients, of which the transform has the last word."""
    updates, transform = transform.update(downhill(grads), params)
    return moved(params, updates), transform


def downhill(grads):
    """Small steps down the gradients."""
    return jax.tree.map(lambda g: jnp.asarray(-0.1, g.dtype) * g, grads)


def moved(params, updates):
    """The parameters plus the updates, which may be wider."""

    def add(u, x):
        return x if u is None else (x.astype(u.dtype) + u).astype(x.dtype)

    return jax.tree.map(add, updates, params, is_leaf=lambda u: u is None)


@jax.jit
def _nested_gradients(params, step):
    return jax.value_and_grad(nested_loss)(params, step)


def gradients_at(params, step, spoilt=()):
    """The loss and its gradients; in the steps `spoilt` one of them is NaN."""
    value, grads = _nested_gradients(params, float(step))
    if step in spoilt:
        grads["layers"][1] = grads["layers"][1].at[0, 0].set(jnp.nan)
    return value, grads


@jax.jit
def _applied(opt, grads, params, value, step):
    value_fn = lambda params: nested_loss(params, step)
    return opt.apply(grads, params, value=value, value_fn=value_fn)


def trained(opt, params, spoilt=()):
    """The optimizer and the parameters after each step."""
    opt = opt.init(params)
    for step in range(STEPS):
        value, grads = gradients_at(params, step, spoilt)
        params, opt = _applied(opt, grads, params, value, float(step))
        yield opt, params


def in_optax(function):
    """Run a function with the promotion that optax needs."""

    @functools.wraps(function)
    def run(*args, **kwargs):
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return function(*args, **kwargs)

    return run


@in_optax
def trained_by_optax(tx, params, spoilt=(), needs=("value", "obj_fn")):
    """The state and the parameters after each step. `needs` is what `tx` is given."""
    tx = optax.with_extra_args_support(tx)

    @jax.jit
    def apply(grads, state, params, value, step):
        loss = lambda params: nested_loss(params, step)
        grad_fn = lambda params, _: jax.grad(loss)(params)
        known = {"value": value, "obj_fn": loss, "grad_fn": grad_fn}
        extra = {name: known[name] for name in needs}
        updates, state = tx.update(grads, state, params, **extra)
        return optax.apply_updates(params, updates), state

    state, made = tx.init(params), []
    for step in range(STEPS):
        value, grads = gradients_at(params, step, spoilt)
        params, state = apply(grads, state, params, value, float(step))
        made.append((state, params))
    return made
