"""Nobody's memory is shared: what `init` and `replace` return may be donated."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import each, OPTIMIZERS, TRANSFORMS, WRAPPERS
from problems import Model

import eqxopt


RECIPES = {
    name: case.make for name, case in (OPTIMIZERS | TRANSFORMS | WRAPPERS).items()
} | {
    "Chain": lambda: eqxopt.Chain(eqxopt.ClipByNorm(1.0), *[eqxopt.SGD(0.1)] * 2),
    "Partition": lambda: eqxopt.Partition(
        dict.fromkeys("ab", eqxopt.Adam(1e-3)),
        lambda path, x: "a" if x.ndim > 1 else "b",
    ),
    "masked": lambda: eqxopt.masked(eqxopt.SGD(0.1), lambda path, x: x.ndim > 1),
    "schedule": lambda: eqxopt.Adam(eqxopt.schedules.Linear(0.1, 0.0, 10)),
    "choice": lambda: eqxopt.SGD({"w": 0.1, "b": eqxopt.schedules.Constant(0.2)}),
    "choice by function": lambda: eqxopt.SGD(lambda path, x: 0.1 if x.ndim else 0.2),
    "line search": lambda: eqxopt.LBFGS(),
}


def pointers(*trees):
    arrays = [x for x in jax.tree.leaves(trees) if isinstance(x, jax.Array)]
    return [x.unsafe_buffer_pointer() for x in arrays if x.size]


def disjoint(*trees):
    every = pointers(*trees)
    return len(every) == len(set(every))


@pytest.mark.parametrize("name", each(RECIPES))
def test_nothing_is_shared(name):
    params = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}
    recipe = RECIPES[name]()
    one, two = recipe.init(params), recipe.init(params)
    assert disjoint(one, two, params)
    assert not set(pointers(recipe)) & set(pointers(one, two))
    assert disjoint(one, one.replace(), params)
    assert jax.tree.structure(one.replace()) == jax.tree.structure(one)
    again = one.init(params)
    assert disjoint(one, again)
    hyperparameters = one.hyperparameters()
    assert not set(pointers(hyperparameters)) & set(pointers(one))


def test_one_recipe_for_two_models():
    """A generator and a discriminator, each with a donating step."""
    recipe = eqxopt.Adam(2e-4)
    loss = lambda x: jnp.sum(x**2)
    one, two = jnp.ones(2), jnp.ones(3)
    one_opt, two_opt = recipe.init(one), recipe.init(two)
    step, other = eqxopt.make_step(loss), eqxopt.make_step(loss)
    for _ in range(3):
        one, one_opt, _ = step(one, one_opt)
        two, two_opt, _ = other(two, two_opt)
    assert float(recipe.hyperparameters()["learning_rate"]) == pytest.approx(2e-4)
    assert float(recipe.init(one).apply(one, one)[1].learning_rate) > 0


def test_a_log_outlives_the_optimizer():
    x = jnp.ones(2)
    opt = eqxopt.Adam(0.5).init(x)
    step = eqxopt.make_step(lambda x: jnp.sum(x**2))
    log = []
    for _ in range(2):
        log.append(opt.hyperparameters())
        x, opt, _ = step(x, opt)
    assert [float(entry["learning_rate"]) for entry in log] == [0.5, 0.5]


def test_both_in_one_donated_call():
    x, y = jnp.ones(2), jnp.ones(2)
    opt = eqxopt.Adam(0.5).init(x)
    slow = opt.replace(learning_rate=0.25)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def both(one, two):
        return [opt.apply(x, x) for x, opt in (one, two)]

    (x, _), (y, _) = both((x, opt), (y, slow))
    assert not np.array_equal(x, y)


def test_a_state_that_is_the_parameter_itself():
    """A rule may return the very array that it was given."""

    class FromStart(eqxopt.AbstractLeafwiseOptimizer):
        def init_leaf(self, param):
            return param, param

        def update_leaf(self, t, grad, param, state):
            return state[0] - param - grad, state

    model = Model()
    opt = FromStart().init(model)
    assert disjoint(opt, eqx.filter(model, eqx.is_array))


@pytest.mark.parametrize("name", ["AdamW", "EMA", "Chain", "schedule"])
def test_inside_transformations(name):
    """`init` and `replace` add no operation there."""
    recipe = RECIPES[name]()
    params = {"w": jnp.ones((2, 3))}
    shapes = jax.eval_shape(recipe.init, params)
    opt = jax.jit(lambda params: recipe.init(params))(params)
    assert jax.tree.structure(opt) == jax.tree.structure(recipe.init(params))
    assert jax.tree.structure(shapes) == jax.tree.structure(opt)
    assert not set(pointers(recipe)) & set(pointers(opt))
    jaxpr = jax.make_jaxpr(lambda opt: opt.replace())(opt)
    assert not jaxpr.eqns
    again = jax.jit(lambda opt: opt.replace())(opt)
    assert disjoint(opt, again)
    many = jax.vmap(lambda x: recipe.init({"w": x}))(jnp.ones((4, 2, 3)))
    assert all(x.shape[0] == 4 for x in jax.tree.leaves(many))


def test_where_they_lie():
    """Copies lie where the originals do."""
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    place = jax.NamedSharding(mesh, jax.sharding.PartitionSpec())
    recipe = jax.device_put(eqxopt.SGD(0.1), place)
    opt = recipe.init(jnp.ones(8))
    assert opt.learning_rate.sharding == place
    assert opt.replace().learning_rate.sharding == place
    assert not recipe.replace().learning_rate.weak_type
