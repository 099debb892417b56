"""Mistakes are named: class, path and remedy, and nothing has changed."""

import json
import pathlib
import re
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
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


NUMBERS = {"float": 1.0, "int": 3, "bool": True, "complex": 1j, "array": np.arange(2)}


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("of_class", ["SGD", "AdamW", "EMA", "Chain"])
def test_gradient_of_what_is_no_parameter(name, of_class):
    """JAX gives Python floats a gradient, but nothing could move them."""
    sgd = eqxopt.SGD(0.1)
    opt = {"EMA": eqxopt.EMA(sgd, 0.9), "Chain": eqxopt.Chain(sgd), "SGD": sgd}.get(
        of_class, eqxopt.AdamW(0.1)
    )
    params = {"x": jnp.ones(2), "slope": [NUMBERS[name]]}
    grads = {"x": jnp.ones(2), "slope": [jnp.ones(())]}
    opt = opt.init(params)
    match = rf"`{of_class}`: .* at \['slope'\]\[0\], where .*no parameter.*jnp.asarray"
    for call in (opt.apply, opt.update):
        with pytest.raises(TypeError, match=match):
            call(grads, params)
    # In another container as well.
    with pytest.raises(TypeError, match=match):
        opt.apply({"x": jnp.ones(2), "slope": (jnp.ones(()),)}, params)
    with pytest.raises(TypeError, match=r"`SGD`: .* at the root, where the model has"):
        sgd.init(jnp.ones(())).apply(jnp.ones(()), NUMBERS[name])


def test_gradients_that_are_none_of_a_number():
    """`None`, float0, and the number itself, where the model stands for gradients."""
    params = {"x": jnp.ones(2), "slope": 2.0, "n": jnp.arange(2)}
    opt = eqxopt.SGD(0.1).init(params)
    float0 = np.zeros((), jax.dtypes.float0)
    for grad in (None, float0, 2.0):
        new, _ = opt.apply({"x": jnp.ones(2), "slope": grad, "n": float0}, params)
        assert new["slope"] == 2.0 and float(new["x"][0]) == pytest.approx(0.9)


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
    with pytest.raises(ValueError, match=r"`AdamW`: `value`.*shape \(3,\)"):
        opt.apply(model, model, value=jnp.ones(3))


def test_value_that_is_missing():
    params = {"x": jnp.ones(2)}
    opt = eqxopt.PolyakSGD().init(params)
    match = r"`PolyakSGD` needs the loss: call `opt.apply\(grads, model, value=loss\)`"
    with pytest.raises(ValueError, match=match):
        opt.apply(params, params)


def _swapped(model):
    return model, eqx.filter(model, eqx.is_inexact_array)


X = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}
WRONG_ARGUMENTS = {
    "number": (lambda: eqxopt.Adam("1e-3"), r"`Adam\(learning_rate='1e-3'\)`"),
    "optional number": (
        lambda: eqxopt.SGD(0.1, momentum="a"),
        r"`SGD\(momentum='a'\)`",
    ),
    "vector": (lambda: eqxopt.Adam(jnp.ones(2)), r"`Adam\(learning_rate=.*vmap"),
    "replaced": (lambda: eqxopt.Adam(0.1).replace(b1="x"), r"`Adam\(b1='x'\)`"),
    "replaced inside": (
        lambda: eqxopt.Chain(eqxopt.Adam(0.1)).replace(b1="x"),
        r"`Adam\(b1='x'\)`",
    ),
    "option": (
        lambda: eqxopt.Adam(0.1).replace(nesterov=3),
        r"`Adam\(nesterov=3\)`.*True or False",
    ),
    "seed": (lambda: eqxopt.NoisySGD(0.1, seed="x"), r"`NoisySGD\(seed='x'\)`"),
    "fraction as a seed": (lambda: eqxopt.NoisySGD(0.1, seed=1.5), r"\(seed=1.5\)`"),
    "dtype": (lambda: eqxopt.Adam(0.1, mu_dtype="int32"), r"`Adam\(mu_dtype='int32'"),
    "mask": (lambda: eqxopt.AdamW(0.1, mask=3), r"`AdamW\(mask=3\)`.*True or False"),
    "matrices": (lambda: eqxopt.Muon(0.1, matrices=0.5), r"`Muon\(matrices=0.5\)`"),
    "optimizer": (lambda: eqxopt.EMA(3, 0.9), r"`EMA\(optimizer=3\)`"),
    "labels": (
        lambda: eqxopt.Partition({"a": eqxopt.SGD(0.1)}, 3),
        r"`Partition\(labels=3\)`",
    ),
    "schedule's number": (
        lambda: eqxopt.schedules.Linear("a", 0.0, 3),
        r"`Linear\(init_value='a'\)`",
    ),
    "four arguments": (
        lambda: eqxopt.Adam(lambda a, b, c, d: 1.0),
        r"`Adam\(learning_rate=.*needs 4 arguments",
    ),
    "chosen": (
        lambda: eqxopt.AdamW(lambda path, array: -1.0).init(X),
        r"`AdamW\(learning_rate=-1.0\)`: `learning_rate` at \['b'\] must lie in",
    ),
    "chosen for some": (
        lambda: eqxopt.Adam(0.1, b1=lambda path, x: 0.5 * x.ndim).init(X),
        r"`Adam\(b1=1.0\)`: `b1` at \['w'\] must lie in \[0, 1\)",
    ),
    "chosen inside": (
        lambda: eqxopt.EMA(eqxopt.SGD(lambda path, array: -1.0), 0.9).init(X),
        r"`SGD\(learning_rate=-1.0\)`",
    ),
    "chosen in jit": (
        lambda: jax.jit(lambda x: eqxopt.AdamW(lambda path, x: -1.0).init(x))(X),
        r"`AdamW\(learning_rate=-1.0\)`",
    ),
    "chosen words": (
        lambda: eqxopt.AdamW(lambda path, array: "a").init(X),
        r"`AdamW.learning_rate`, for \['b'\]: ",
    ),
    "schedule": (
        lambda: eqxopt.SGD(lambda step: "a").init(X).apply(X, X),
        r"`SGD.learning_rate`: a schedule must give .* gave 'a'",
    ),
    "value": (
        lambda: eqxopt.SGD(0.1).init(X).apply(X, X, value="loss"),
        r"`SGD`: `value` must be a real scalar, .*'loss'",
    ),
    "complex value": (
        lambda: eqxopt.SGD(0.1).init(X).update(X, X, value=1j),
        r"`SGD`: `value` must be a real scalar, the loss, not 1j",
    ),
    "function's value": (
        lambda: eqxopt.SAM(eqxopt.SGD(0.1)).init(X).apply(X, X, value_fn=lambda x: "a"),
        r"`SAM`: `value_fn` must give a real scalar, .* 'a'",
    ),
    "count": (
        lambda: jax.tree.map(lambda x: x / 2, eqxopt.SGD(0.1).init(X)).apply(X, X),
        r"`SGD.count` has dtype float32.*floating-point arrays",
    ),
    "inner count": (
        lambda: (
            eqx.tree_at(
                lambda o: o.optimizer.count,
                eqxopt.EMA(eqxopt.SGD(0.1), 0.9).init(X),
                jnp.ones(()),
            )
        ).apply(X, X),
        r"`SGD.count` has dtype float32",
    ),
    "bits": (
        lambda: eqx.tree_at(
            lambda o: o.seed, eqxopt.NoisySGD(0.1).init(X), jnp.ones(2)
        ).apply(X, X),
        r"`NoisySGD.seed` has dtype float32",
    ),
    "boolean": (lambda: eqxopt.SGD(np.True_), r"`SGD\(learning_rate=np.True_\)`"),
    "array of a boolean": (
        lambda: eqxopt.SGD(jnp.asarray(True)),
        r"`SGD\(learning_rate=Array\(True",
    ),
    "chosen after init": (
        lambda: (
            eqxopt.SGD(0.1).init(X).replace(learning_rate=lambda p, x: -1.0).apply(X, X)
        ),
        r"`SGD\(learning_rate=-1.0\)`: `learning_rate` at \['b'\] must lie in",
    ),
    "mask of no argument": (
        lambda: eqxopt.AdamW(0.1, mask=lambda: True),
        r"a mask function takes \(path, array\) or .*takes 0 arguments",
    ),
    "mask of four arguments": (
        lambda: eqxopt.AdamW(0.1, mask=lambda a, b, c, d: True),
        r"a mask function takes \(path, array\) or .*takes 4 arguments",
    ),
    "masked by words": (
        lambda: eqxopt.masked(eqxopt.SGD(0.1), lambda path, x: "frozen").init(X),
        r"`masked`: the mask must be True or False, not 'frozen'",
    ),
    "masked by nothing": (
        lambda: eqxopt.masked(eqxopt.SGD(0.1), lambda path, x: None).init(X),
        r"`masked`: the mask must be True or False, not None",
    ),
    "partition the other way around": (
        lambda: eqxopt.Partition(lambda path, x: "a", {"a": eqxopt.SGD(0.1)}),
        r"`Partition\(optimizers=.*a dictionary from labels to optimizers comes first",
    ),
    "fallback": (
        lambda: eqxopt.Muon(0.1, fallback="adamw"),
        r"`Muon\(fallback='adamw'\)`: the fallback is an optimizer, or a function",
    ),
    "transform as a fallback": (
        lambda: eqxopt.Muon(0.1, fallback=eqxopt.Sign()),
        r"`Muon\(fallback=Sign\(\)\)`: the fallback is an optimizer",
    ),
    "no blocks": (lambda: eqxopt.rules.Blocks(heads=0), r"`Blocks\(heads=0\)`"),
    "negative stack": (
        lambda: eqxopt.rules.Blocks(stacked=-1),
        r"`Blocks\(stacked=-1\)`",
    ),
    "one coefficient": (
        lambda: eqxopt.NewtonSchulz(3.0),
        r"`coefficients` are three numbers.*got 3.0",
    ),
    "infinite weight": (
        lambda: eqxopt.Accumulate(eqxopt.SGD(0.1), 2).init(X).weighted(jnp.inf),
        r"`Accumulate.weighted\(inf\)`: `weight` must lie in \[0, inf\)",
    ),
    "loss and gradients": (
        lambda: eqxopt.SGD(0.1).init(X).apply((jnp.ones(()), X), X),
        r"`SGD`: .*If these are `\(loss, grads\)`, give `grads` alone",
    ),
    "the model first": (
        lambda: eqxopt.SGD(0.1).init(Model()).apply(*_swapped(Model())),
        r"`SGD`: .*the gradients come first, `\(grads, model\)`",
    ),
    "an optimizer of ours as optax's": (
        lambda: eqxopt.interop.FromOptax(eqxopt.SGD(0.1)),
        r"`SGD` is one of eqxopt's already",
    ),
    "another model": (
        lambda: eqxopt.describe(eqxopt.Adam(0.1).init(X), {"w": jnp.ones((3, 3))}),
        r"`describe`: this `Adam` was initialised for another model: .*'w'\]\.mu",
    ),
    "no model": (
        lambda: eqxopt.describe(eqxopt.Adam(0.1), X),
        r"`Adam` has no state: call",
    ),
}


# The suite checks types before any of these errors could be raised.
WRONG_TYPES = {
    "a number past the constructor": (
        lambda: eqx.tree_at(
            lambda o: o.learning_rate, eqxopt.SGD(0.1).init(X), 0.2
        ).apply(X, X),
        r"`SGD.learning_rate` is 0.2, which is no array: change it by `opt.replace`",
    ),
    "masked the other way around": (
        lambda: eqxopt.masked(lambda path, x: True, eqxopt.SGD(0.1)),
        r"`masked` takes the optimizer first",
    ),
    "chain of a list": (
        lambda: eqxopt.Chain([eqxopt.Sign(), eqxopt.SGD(0.1)]),
        r"`Chain` takes transforms one by one.*`eqxopt.Chain\(\*transforms\)`",
    ),
    "fraction of a head": (
        lambda: eqxopt.rules.Blocks(heads=2.0),
        r"`Blocks\(heads=2.0\)`: it must be an integer",
    ),
    "mantissas": (
        lambda: eqxopt.CompactState(eqxopt.AdamW(0.1), mantissas=(5.0, 10.0)),
        r"`CompactState.mantissas` are two integers",
    ),
    "one mantissa": (
        lambda: eqxopt.CompactState(eqxopt.AdamW(0.1), mantissas=5),
        r"`CompactState.mantissas` are two integers",
    ),
    "least size": (
        lambda: eqxopt.CompactState(eqxopt.AdamW(0.1), min_size=-3.5),
        r"`CompactState\(min_size=-3.5\)`",
    ),
    "least size to factor": (
        lambda: eqxopt.Adafactor(min_dim_size_to_factor="a"),
        r"`Adafactor\(min_dim_size_to_factor=a\)`",
    ),
    "tuple for an interval": (
        lambda: eqxopt.random_points(jax.random.key(0), 3, rate=(1e-4, 1.0)),
        r"`random_points`: `rate` must be an interval, such as `eqxopt.Between",
    ),
    "a file after the tree": (
        lambda: eqxopt.save(X, "run.npz"),
        r"`save` takes the path of the file first, `save\(path, tree\)`.*a `dict`",
    ),
    "a file after the tree to load": (
        lambda: eqxopt.load(X, "run.npz"),
        r"`load` takes the path of the file first, `load\(path, like\)`",
    ),
    "the model before its optimizer": (
        lambda: eqxopt.describe(X, eqxopt.SGD(0.1).init(X)),
        r"`describe` takes the optimizer first, `describe\(opt, model\)`",
    ),
    "an optimizer to sweep over": (
        lambda: eqxopt.sweep(
            lambda x: jnp.sum(x["w"]),
            lambda key: X,
            eqxopt.SGD(0.1),
            {"learning_rate": [0.1]},
            key=jax.random.key(0),
            steps=1,
        ),
        r"`sweep`: `make` must be a function from a point to an optimizer",
    ),
    "a seed for a key": (
        lambda: eqxopt.fit(
            lambda x, key: jnp.sum(x["w"]),
            X,
            eqxopt.SGD(0.1).init(X),
            steps=1,
            key=0,
        ),
        r"`fit`: `key` is a random key: `jax.random.key\(0\)`",
    ),
    "optax's as one of ours": (
        lambda: eqxopt.interop.to_optax(optax.sgd(0.1)),
        r"`to_optax` takes an optimizer or transform of eqxopt",
    ),
}


def error_of(make):
    try:
        make()
    except (TypeError, ValueError) as error:
        return str(error)
    return "no error"


@pytest.fixture(scope="module")
def unchecked_errors():
    """The messages of `WRONG_TYPES` in a process that checks no types."""
    code = (
        "import json, test_errors as t; "
        "print(json.dumps({k: t.error_of(x) for k, (x, _) in t.WRONG_TYPES.items()}))"
    )
    here = pathlib.Path(__file__).parent
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=here, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize("name", WRONG_TYPES)
def test_class_and_argument_are_named_without_type_checks(name, unchecked_errors):
    assert re.search(WRONG_TYPES[name][1], unchecked_errors[name])


@pytest.mark.parametrize("name", WRONG_ARGUMENTS)
def test_class_and_argument_are_named(name):
    make, match = WRONG_ARGUMENTS[name]
    with pytest.raises((TypeError, ValueError), match=match):
        make()


def test_a_choice_of_tracers_passes():
    @jax.jit
    def rate(x):
        opt = eqxopt.SGD(lambda path, array: x).init({"a": x})
        return opt.hyperparameters()["learning_rate"]["['a']"]

    assert rate(jnp.asarray(-1.0)) == -1


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
