"""Mistakes are named: class, path and remedy, and nothing has changed."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from problems import Model

import eqxopt


@pytest.fixture
def model():
    return Model()


@pytest.fixture
def opt(model):
    return eqxopt.AdamW(1e-3).init(model)


def grads_with(model, where, value):
    grads = eqx.filter(model, eqx.is_inexact_array)
    return eqx.tree_at(where, grads, value)


def weight(model):
    return model.layers[1].weight


def test_apply_before_init(model):
    match = r"`AdamW` has no state: call `opt = opt.init\(model\)` first"
    with pytest.raises(ValueError, match=match):
        eqxopt.AdamW(1e-3).apply(model, model)
    with pytest.raises(ValueError, match=match):
        jax.eval_shape(eqxopt.AdamW(1e-3).update, {}, {})


def test_gradients_of_another_structure():
    params = {"a": jnp.ones(2), "b": [jnp.ones(2), jnp.ones(2)]}
    opt = eqxopt.SGD(0.1).init(params)
    with pytest.raises(ValueError, match=r"`SGD`: the gradients.*\['b'\]\[1\]"):
        opt.apply({"a": jnp.ones(2), "b": [jnp.ones(2)]}, params)
    with pytest.raises(ValueError, match=r"`SGD`: the gradients.*at \['c'\]"):
        opt.apply(params | {"c": jnp.ones(2)}, params)


def test_gradient_of_another_shape(model, opt):
    grads = grads_with(model, weight, jnp.ones((4, 2)))
    match = r"`AdamW`: .*\.layers\[1\]\.weight has shape \(4, 2\).*\(2, 4\)"
    with pytest.raises(ValueError, match=match):
        opt.apply(grads, model)


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.bool_])
def test_gradient_of_integers(model, opt, dtype):
    grads = grads_with(model, weight, jnp.ones((2, 4), dtype))
    match = rf"`AdamW`: .*\.layers\[1\]\.weight has dtype {jnp.dtype(dtype)}"
    with pytest.raises(TypeError, match=match):
        opt.apply(grads, model)


def test_gradient_that_is_no_array(model, opt):
    with pytest.raises(TypeError, match=r"\.layers\[1\]\.weight is not an array"):
        opt.apply(grads_with(model, weight, 1.0), model)


def test_complex_gradient_of_a_real_parameter(model, opt):
    grads = grads_with(model, weight, jnp.ones((2, 4), jnp.complex64))
    with pytest.raises(TypeError, match=r"complex64, but the parameter is real"):
        opt.apply(grads, model)


def test_parameter_that_init_did_not_see(model):
    without = eqx.tree_at(weight, model, None)
    opt = eqxopt.AdamW(1e-3).init(without)
    with pytest.raises(ValueError, match=r"\.layers\[1\]\.weight was no parameter"):
        opt.apply(model, model)


def test_state_of_another_model(model):
    other = eqx.tree_at(weight, model, jnp.ones((3, 4)))
    opt = eqxopt.AdamW(1e-3).init(other)
    match = r"state at \.layers\[1\]\.weight does not fit.*\(2, 4\).*\(3, 4\)"
    with pytest.raises(ValueError, match=match):
        opt.apply(model, model)


def test_state_of_other_options():
    params = {"x": jnp.ones(2)}
    opt = eqxopt.SGD(0.1).init(params).replace(momentum=0.9)
    with pytest.raises(ValueError, match=r"made with other options.*opt.init\(model\)"):
        opt.apply(params, params)


def test_mask_that_does_not_fit():
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    with pytest.raises(ValueError, match=r"`AdamW.mask` has no entry.*\['b'\]"):
        eqxopt.AdamW(0.1, mask={"a": True}).init(params)
    with pytest.raises(ValueError, match=r"`AdamW.mask` has an entry at \['c'\]"):
        eqxopt.AdamW(0.1, mask={"a": True, "b": True, "c": True}).init(params)
    with pytest.raises(TypeError, match=r"`AdamW.mask`, for \['a'\], must be True or"):
        eqxopt.AdamW(0.1, mask=lambda path, array: 1.0).init(params)


def test_mask_function_in_the_form_of_optax():
    with pytest.raises(TypeError, match=r"takes \(path, array\).*mask\(model\)"):
        eqxopt.AdamW(0.1, mask=lambda params: params)


def test_choice_that_does_not_fit():
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    with pytest.raises(ValueError, match=r"`SGD.learning_rate` has no entry.*\['b'\]"):
        eqxopt.SGD({"a": 0.1}).init(params)


def test_value_that_is_no_scalar(model, opt):
    with pytest.raises(ValueError, match=r"`AdamW.apply`: `value`.*shape \(3,\)"):
        opt.apply(model, model, value=jnp.ones(3))


def test_value_that_is_missing():
    params = {"x": jnp.ones(2)}
    opt = eqxopt.PolyakSGD().init(params)
    match = r"`PolyakSGD` needs the loss: call `opt.apply\(grads, model, value=loss\)`"
    with pytest.raises(ValueError, match=match):
        opt.apply(params, params)


def test_dtype_option():
    with pytest.raises(TypeError, match="floating-point dtype, got int32"):
        eqxopt.Adam(0.1, mu_dtype=jnp.int32)


def test_nothing_changes_on_an_error(model, opt):
    before = jax.tree.map(lambda x: x.copy(), eqx.filter((model, opt), eqx.is_array))
    with pytest.raises(ValueError):
        opt.apply(grads_with(model, weight, jnp.ones((4, 2))), model)
    assert eqx.tree_equal(before, eqx.filter((model, opt), eqx.is_array))


def test_optimizers_are_immutable(opt):
    with pytest.raises(AttributeError):
        opt.learning_rate = 0.1
