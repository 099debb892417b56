"""Numbers that parameters share: what the contract does not say of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import OPTIMIZERS

import eqxopt
from eqxopt._abstract.coupled import AbstractCoupledOptimizer


COUPLED = [
    name
    for name in OPTIMIZERS
    if issubclass(getattr(eqxopt, name), AbstractCoupledOptimizer)
]


def started(opt, params):
    opt = opt.init(params)
    return opt.apply(params, params, value=3.0)


@pytest.mark.parametrize("name", COUPLED)
def test_a_number_for_all_is_not_chosen_for_each(name):
    params = {"a": jnp.ones(3), "b": jnp.ones(2)}
    opt = OPTIMIZERS[name].make()
    plain, _ = started(opt, params)
    for field in opt.hyperparameters():
        same = {"a": getattr(opt, field), "b": getattr(opt, field)}
        chosen = opt.replace(**{field: same})
        if field in opt.shared_hyperparameters:
            match = rf"`{name}.{field}` is one number for the whole model"
            with pytest.raises(TypeError, match=match):
                chosen.init(params)
        else:
            new, _ = started(chosen, params)
            for k in params:
                np.testing.assert_array_equal(new[k], plain[k])


@pytest.mark.parametrize("name", [x for x in COUPLED if OPTIMIZERS[x].needs_value])
def test_the_loss_is_needed(name):
    params = {"x": jnp.ones(2)}
    with pytest.raises(ValueError, match=f"`{name}` needs the loss"):
        OPTIMIZERS[name].make().init(params).apply(params, params)


@pytest.mark.parametrize("name", COUPLED)
def test_without_gradients_nothing_is_learned(name):
    params = {"x": jnp.ones(2)}
    params, opt = started(OPTIMIZERS[name].make(), params)
    _, after = opt.apply({"x": None}, params, value=1.0)
    for old, new in zip(jax.tree.leaves(opt.shared), jax.tree.leaves(after.shared)):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("name", COUPLED)
def test_shared_numbers_are_as_wide_as_the_widest_parameter(name, x64):
    params = {"a": jnp.ones(2, jnp.bfloat16), "b": jnp.ones(2, jnp.float32)}
    for wide in (jnp.float32, jnp.float64):
        _, opt = started(OPTIMIZERS[name].make(), params | {"c": jnp.ones(2, wide)})
        assert {x.dtype for x in jax.tree.leaves(opt.shared)} == {jnp.dtype(wide)}


@pytest.mark.parametrize("opt", [eqxopt.Prodigy(), eqxopt.DAdaptAdamW()])
def test_gradients_of_zero_leave_the_estimate(opt):
    x = jnp.ones(2)
    new, opt = opt.init(x).apply(jnp.zeros(2), x)
    assert opt.shared.estimate == opt.estim_lr0
    np.testing.assert_array_equal(new, x)


@pytest.mark.parametrize("name", COUPLED)
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_slopes_where_all_is_zero(name, value):
    """Gradients and parameters of 0 throughout, and a loss that may be 0 too."""
    x = jnp.zeros(2)
    opt = OPTIMIZERS[name].make()

    def trained(hyperparameters):
        made = opt.replace(**hyperparameters).init(x)
        body = lambda c, _: (c[1].apply(jnp.zeros(2), c[0], value=value), None)
        (new, made), _ = jax.lax.scan(body, (x, made), length=3)
        return jnp.sum(new) + sum(map(jnp.sum, jax.tree.leaves(made.shared)))

    at = {k: jnp.asarray(v) for k, v in opt.hyperparameters().items()}
    slopes = jax.jit(jax.grad(trained))(at)
    assert all(np.isfinite(slope) for slope in slopes.values())


def test_wide_gradients_of_narrow_parameters_stay_wide():
    params, grads = jnp.ones(2, jnp.bfloat16), jnp.array([1.001, 0.0], jnp.float32)
    opt = eqxopt.PolyakSGD(max_learning_rate=10.0).init(params)
    updates, opt = opt.update(grads, params, value=1.001**2)
    np.testing.assert_allclose(updates, [-1.001, 0.0], rtol=1e-6)


@pytest.mark.parametrize(
    "make, known",
    [
        (lambda: eqxopt.DoG(init_step_type="radius"), "'heuristic', 'distance'"),
        (lambda: eqxopt.PolyakSGD(variant="SPS+"), r"'sps', 'sps\+', not 'SPS\+'"),
    ],
)
def test_unknown_words(make, known):
    with pytest.raises(ValueError, match=f"is one of {known}"):
        make()
