"""Models of classes that check or convert what they hold, whenever they are built."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import OPTIMIZERS, WRAPPERS

import eqxopt


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["weight", "bias"], meta_fields=[]
)
@dataclasses.dataclass
class Asserting:
    weight: jax.Array
    bias: jax.Array

    def __post_init__(self):
        assert self.weight.ndim == 2, "a weight is a matrix"
        assert self.bias.shape == self.weight.shape[:1]


@jax.tree_util.register_pytree_node_class
class Converting:
    def __init__(self, weight, bias):
        self.weight = jnp.asarray(weight)
        self.bias = jnp.asarray(bias, jnp.float32)

    def tree_flatten(self):
        return (self.weight, self.bias), None

    @classmethod
    def tree_unflatten(cls, aux, children):
        return cls(*children)


@jax.tree_util.register_pytree_node_class
class Raising(Converting):
    @classmethod
    def tree_unflatten(cls, aux, children):
        if not all(isinstance(x, jax.Array) for x in children):
            raise TypeError("only arrays")
        return cls(*children)


CLASSES = (Asserting, Converting, Raising)


def model_of(cls):
    return {"layer": cls(jnp.full((3, 2), 0.5), jnp.ones(3)), "scale": jnp.ones(())}


def plain(model):
    layer = model["layer"]
    return {
        "layer": {"weight": layer.weight, "bias": layer.bias},
        "scale": model["scale"],
    }


def loss(model):
    layer = model["layer"]
    weight = layer["weight"] if isinstance(layer, dict) else layer.weight
    bias = layer["bias"] if isinstance(layer, dict) else layer.bias
    return jnp.sum((weight @ jnp.ones(2) + bias) ** 2) * model["scale"]


SOME = {
    name: (OPTIMIZERS | WRAPPERS)[name].make
    for name in ("SGD", "AdamW", "Muon", "SOAP", "LBFGS", "DoG", "EMA", "Lookahead")
    + ("Accumulate", "ScheduleFreeAdamW", "SM3", "SAM")
}


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("name", SOME)
def test_trains_like_a_plain_tree(cls, name):
    model = model_of(cls)
    other = plain(model)
    opt, other_opt = SOME[name]().init(model), SOME[name]().init(other)
    for _ in range(3):
        value, grads = jax.value_and_grad(loss)(model)
        model, opt = opt.apply(grads, model, value=value, value_fn=loss)
        value, grads = jax.value_and_grad(loss)(other)
        other, other_opt = other_opt.apply(grads, other, value=value, value_fn=loss)
    assert type(model["layer"]) is cls
    # Their parameters come in another order, and sums with them.
    for a, b in zip(jax.tree.leaves(plain(model)), jax.tree.leaves(other)):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    for a, b in zip(
        jax.tree.leaves(plain(opt.eval_params(model))),
        jax.tree.leaves(other_opt.eval_params(other)),
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5)


@pytest.mark.parametrize("cls", CLASSES)
def test_as_with_optax(cls):
    model = model_of(cls)
    tx = optax.adam(0.1)
    grads = jax.grad(loss)(model)
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = tx.update(grads, tx.init(model))
        theirs = optax.apply_updates(model, updates)
    ours, opt = eqxopt.Adam(0.1).init(model).apply(grads, model)
    np.testing.assert_allclose(ours["layer"].weight, theirs["layer"].weight, rtol=1e-5)
    updates, _ = opt.update(grads, model)
    assert type(updates["layer"]) is cls


@pytest.mark.parametrize("cls", CLASSES)
def test_in_a_loop(cls):
    model = model_of(cls)
    opt = eqxopt.AdamW(0.1).init(model)

    @jax.jit
    def train(model, opt):
        def step(carry, _):
            model, opt = carry
            return opt.apply(jax.grad(loss)(model), model), None

        return jax.lax.scan(step, (model, opt), length=5)[0]

    new, new_opt = train(model, opt)
    assert jax.tree.structure(new_opt) == jax.tree.structure(opt)
    assert float(loss(new)) < float(loss(model))


@pytest.mark.parametrize("cls", CLASSES)
def test_states_are_found_by_path(cls):
    model = model_of(cls)
    opt = eqxopt.Adam(0.1).init(model)
    assert all(path.startswith("['layer']") for path in list(opt.state)[:2])
    assert {x.mu.shape for x in opt.state.values()} == {(3, 2), (3,), ()}
    table = eqxopt.describe(opt, model)
    assert any(line.endswith("48 B") for line in table.splitlines()[1:3])
    assert "80 B" in table.splitlines()[-1]
    other = {"layer": cls(jnp.ones((2, 2)), jnp.ones(2)), "scale": jnp.ones(())}
    with pytest.raises(ValueError, match=r"the state at \['layer'\].* does not fit"):
        eqxopt.Adam(0.1).init(other).apply(jax.grad(loss)(model), model)


@pytest.mark.parametrize("cls", CLASSES)
def test_choices_and_masks_by_function(cls):
    model = model_of(cls)
    zeros = jax.tree.map(jnp.zeros_like, model)
    opt = eqxopt.AdamW(
        lambda path, x: 0.1 if x.ndim > 1 else 0.2,
        weight_decay=1.0,
        mask=lambda path, x: x.ndim > 1,
    )
    new, _ = opt.init(model).apply(zeros, model)
    np.testing.assert_allclose(new["layer"].weight, 0.45, rtol=1e-6)
    np.testing.assert_array_equal(new["layer"].bias, 1.0)
    two = eqxopt.Partition(
        {"a": eqxopt.SGD(0.5), "b": eqxopt.Adam(0.1)},
        lambda path, x: "a" if x.ndim > 1 else "b",
    )
    new, _ = two.init(model).apply(model, model)
    np.testing.assert_allclose(new["layer"].weight, 0.25)
