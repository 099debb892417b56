"""Any tree of any shapes: drawn at random."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from problems import Model

import eqxopt


class Pair(NamedTuple):
    first: object
    second: object


shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple)
dtypes = st.sampled_from([jnp.float32, jnp.bfloat16, jnp.float16, jnp.complex64])
arrays = st.builds(
    lambda shape, dtype, seed: jax.random.normal(jax.random.key(seed), shape, dtype),
    shapes,
    dtypes,
    st.integers(0, 99),
)
others = st.sampled_from([None, 3, 2.5, "text", jnp.tanh, np.arange(3), jnp.arange(2)])
trees = st.recursive(
    arrays | others,
    lambda children: (
        st.lists(children, max_size=3)
        | st.lists(children, max_size=2).map(tuple)
        | st.dictionaries(st.sampled_from("abc"), children, max_size=3)
        | st.builds(Pair, children, children)
    ),
    max_leaves=6,
)


@given(tree=trees, data=st.data())
@settings(max_examples=40, deadline=None, derandomize=True)
def test_any_tree(tree, data):
    grads = jax.tree.map(
        lambda x: x if eqx.is_inexact_array(x) and data.draw(st.booleans()) else None,
        tree,
    )
    opt = eqxopt.AdamW(0.1).init(tree)
    new, new_opt = opt.apply(grads, tree)
    assert jax.tree.structure(new_opt) == jax.tree.structure(opt)
    old_leaves, treedef = jax.tree.flatten(tree)
    new_leaves, new_treedef = jax.tree.flatten(new)
    assert new_treedef == treedef
    for old, x, grad in zip(old_leaves, new_leaves, treedef.flatten_up_to(grads)):
        if eqx.is_inexact_array(old):
            assert (x.shape, x.dtype) == (old.shape, old.dtype)
        if grad is None:
            assert np.array_equal(np.asarray(x), np.asarray(old))
        elif old.size:
            assert not np.array_equal(np.asarray(x), np.asarray(old))


def test_a_branch_of_gradients_may_be_none():
    model = Model()
    grads = eqx.tree_at(
        lambda m: m.layers, eqx.filter(model, eqx.is_inexact_array), None
    )
    opt = eqxopt.SGD(0.1).init(model)
    new, _ = opt.apply(grads, model)
    assert eqx.tree_equal(new.layers, model.layers)
    assert new.scale == pytest.approx(0.9)


def test_gradients_from_filter_grad_and_partition():
    model = Model()
    x = jnp.ones((5, 3))
    loss = lambda m: jnp.mean(jnp.square(jax.vmap(m)(x)))
    opt = eqxopt.Adam(0.1).init(model)
    new, _ = opt.apply(eqx.filter_grad(loss)(model), model)
    arrays, static = eqx.partition(model, eqx.is_inexact_array)
    grads = jax.grad(lambda a: loss(eqx.combine(a, static)))(arrays)
    other, _ = eqxopt.Adam(0.1).init(arrays).apply(grads, arrays)
    assert eqx.tree_equal(eqx.filter(new, eqx.is_inexact_array), other)


def test_a_callable_model_is_a_tree():
    """A mask or choice shaped like an Equinox model is callable, and yet a tree."""
    layer = eqx.nn.Linear(2, 2, key=jax.random.key(0))
    zeros = jax.tree.map(jnp.zeros_like, layer)
    mask = eqx.tree_at(lambda m: (m.weight, m.bias), layer, (True, False))
    opt = eqxopt.AdamW(0.1, weight_decay=1.0, mask=mask).init(layer)
    new, _ = opt.apply(zeros, layer)
    np.testing.assert_allclose(new.weight, 0.9 * layer.weight, rtol=1e-6)
    np.testing.assert_array_equal(new.bias, layer.bias)
    rates = eqx.tree_at(lambda m: (m.weight, m.bias), layer, (0.0, 1.0))
    new, _ = eqxopt.SGD(rates).init(layer).apply(layer, layer)
    np.testing.assert_array_equal(new.weight, layer.weight)
    np.testing.assert_array_equal(new.bias, jnp.zeros(2))


def test_state_reads_like_the_model():
    model = Model()
    opt = eqxopt.Adam(0.1).init(model)
    assert opt.state.layers[0].weight.mu.shape == model.layers[0].weight.shape
    assert opt.state.activation is None and opt.state.steps is None
