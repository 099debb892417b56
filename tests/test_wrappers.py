"""What every wrapper keeps of the contract, around any optimizer."""

import inspect

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import each, EXAMPLES, few, INNER, OWN_WRAPPERS, WRAPPERS as TABLE
from problems import (
    curved,
    Model,
    params_and_still,
    small_params,
    still_loss as loss,
)
from training_loops import (
    assert_close,
    assert_equal,
    avals,
    donating_step,
    scanned,
    step,
    stepped,
)

import eqxopt
from eqxopt._abstract.nested import as_optimizer


WRAPPERS = TABLE | OWN_WRAPPERS


PAIRS = [(wrapper, inner) for wrapper in WRAPPERS for inner in INNER]

# All tests of one case run in a row, so that they share compiled programs.
EXAMPLES_OF_PAIRS = [(name, "AdamW") for name in EXAMPLES]
every_pair = pytest.mark.parametrize(
    "wrapper, inner", few(PAIRS, EXAMPLES_OF_PAIRS), scope="module"
)
every_wrapper = pytest.mark.parametrize("wrapper", each(WRAPPERS), scope="module")


def test_every_wrapper_is_in_the_table():
    wrappers = {
        name
        for name in eqxopt.__all__
        if isinstance(x := getattr(eqxopt, name), type)
        and issubclass(x, eqxopt.AbstractOptimizer)
        and not name.startswith("Abstract")
        and "optimizer" in x.__annotations__
    }
    assert wrappers == {type(case.make()).__name__ for case in TABLE.values()}


@every_pair
def test_arrays_only(wrapper, inner):
    opt, params = WRAPPERS[wrapper].make(inner), small_params()
    made = opt.init(params)
    _, after = step(made, params, params)
    for tree in (opt, made, after):
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(tree))
    leaves = [x for x in jax.tree.leaves((made, params)) if x.size > 0]
    pointers = [x.unsafe_buffer_pointer() for x in leaves]
    assert len(set(pointers)) == len(pointers)


@pytest.mark.parametrize(
    "dtype, grad_dtype",
    [
        (jnp.float32, jnp.bfloat16),
        (jnp.bfloat16, jnp.float32),
        (jnp.float16, jnp.float16),
        (jnp.float64, jnp.float32),
        (jnp.complex64, jnp.complex64),
    ],
)
@every_pair
def test_avals_and_treedef(wrapper, inner, dtype, grad_dtype, x64):
    def one_step():
        params, grads = small_params(dtype), small_params(grad_dtype, seed=1)
        opt = WRAPPERS[wrapper].make(inner).init(params)
        after = opt.apply(grads, params, value=1.0, value_fn=curved)
        return (params, opt), after

    before, after = jax.eval_shape(one_step)
    assert avals(before) == avals(after)
    wide = jnp.float32 if jnp.finfo(dtype).bits < 32 else dtype
    for leaf in jax.tree.leaves(before[1].state):
        assert WRAPPERS[wrapper].narrow_state or jnp.finfo(leaf.dtype).bits >= 32
    updates = jax.eval_shape(
        lambda p, o: o.update(p, p, value=1.0, value_fn=curved)[0], before[0], before[1]
    )
    assert {x.dtype for x in jax.tree.leaves(updates)} == {jnp.dtype(wide)}


@every_wrapper
def test_one_trace(wrapper):
    """One program does ten steps, with a schedule or another hyperparameter."""
    plain = WRAPPERS[wrapper].make().init(small_params())
    grads = small_params(seed=1)
    moving = lambda count: 0.1 / (1.0 + count.astype(float))
    for made in (plain.replace(learning_rate=moving), plain):
        opt, params = made, small_params()
        params, opt = step(opt, params, grads)
        programs = step._cache_size()
        for _ in range(9):
            params, opt = step(opt, params, grads)
        assert step._cache_size() == programs
    for name, value in plain.hyperparameters().items():
        other = value + 1 if value >= 1 else value * 0.99
        step(plain.replace(**{name: other}), small_params(), grads)
    assert step._cache_size() == programs


@every_pair
def test_scan_equals_loop(wrapper, inner):
    params = small_params()
    opt = WRAPPERS[wrapper].make(inner).init(params)
    grads = [small_params(seed=i) for i in range(1, 5)]
    assert_close(scanned(opt, params, grads), stepped(opt, params, grads), 1e-5)


@every_pair
def test_donation_right_after_init(wrapper, inner):
    params, grads = small_params(), small_params(seed=1)
    opt = WRAPPERS[wrapper].make(inner).init(params)
    expected = step(opt, params, grads)
    # What evaluates the model may outlive the optimizer.
    evaluated = opt.eval_params(jax.tree.map(jnp.array, params))
    assert_close(donating_step(opt, params, grads), expected, 1e-5)
    assert params["matrix"].is_deleted() and opt.count.is_deleted()
    assert not evaluated["matrix"].is_deleted()


@every_wrapper
def test_init_under_jit_and_eval_shape(wrapper):
    params = small_params()
    eager = WRAPPERS[wrapper].make().init(params)
    assert avals(jax.eval_shape(WRAPPERS[wrapper].make().init, params)) == avals(eager)
    assert_close(
        jax.jit(lambda p: WRAPPERS[wrapper].make().init(p))(params), eager, 1e-5
    )


@every_pair
def test_whole_model(wrapper, inner):
    model = Model()
    opt = WRAPPERS[wrapper].make(inner).init(model)
    grads = eqx.filter(model, eqx.is_inexact_array)
    after = model
    for _ in range(2):
        after, opt = opt.apply(grads, after, value=1.0, value_fn=curved)
    assert type(after) is Model and after.activation is model.activation
    assert (after.steps, after.name, after.nothing) == (3, "model", None)
    assert not np.array_equal(after.layers[0].weight, model.layers[0].weight)
    evaluated = opt.eval_params(after)
    assert type(evaluated) is Model and evaluated.activation is model.activation
    assert avals(eqx.filter(evaluated, eqx.is_array)) == avals(
        eqx.filter(model, eqx.is_array)
    )


@every_pair
def test_absent_gradients_change_nothing(wrapper, inner):
    params = small_params()
    opt = WRAPPERS[wrapper].make(inner).init(params)
    for seed in (1, 2, 3):
        params, opt = step(opt, params, small_params(seed=seed))
    grads = small_params(seed=4)
    grads |= {"matrix": None, "scalar": np.zeros((), jax.dtypes.float0)}
    new, new_opt = opt.apply(grads, params, value=1.0, value_fn=curved)
    for absent in ("matrix", "scalar"):
        assert_equal(new[absent], params[absent])
        for before, after in ((opt, new_opt), (opt.optimizer, new_opt.optimizer)):
            if before.state and "reset" not in wrapper:
                assert_equal(after.state[absent], before.state[absent])
    assert not np.array_equal(new["vector"], params["vector"])


@every_wrapper
def test_empty_model(wrapper):
    for model in ({}, None, {"f": jnp.tanh, "n": 3}):
        opt = WRAPPERS[wrapper].make().init(model)
        nothing = jax.tree.map(lambda _: None, model)
        for _ in range(2):
            after, opt = opt.apply(nothing, model, value=1.0, value_fn=curved)
        assert after == model
        assert opt.count == (1 if wrapper == "Accumulate" else 2)


@every_wrapper
def test_checkpoint(wrapper, tmp_path):
    def trained(model, opt, steps):
        grads = eqx.filter(model, eqx.is_inexact_array)
        for _ in range(steps):
            model, opt = opt.apply(grads, model, value=1.0, value_fn=curved)
        return model, opt

    saved = trained(Model(), WRAPPERS[wrapper].make().init(Model()), 3)
    eqx.tree_serialise_leaves(tmp_path / "checkpoint.eqx", saved)
    fresh = Model(jax.random.key(1))
    like = (fresh, WRAPPERS[wrapper].make().init(fresh))
    loaded = eqx.tree_deserialise_leaves(tmp_path / "checkpoint.eqx", like)
    arrays = lambda pair: eqx.filter(trained(*pair, 1), eqx.is_array)
    assert_equal(arrays(loaded), arrays(saved))


@every_wrapper
def test_other_containers(wrapper):
    """A model may come back with lists where `init` saw tuples."""
    params = {"layers": [jnp.ones(2), jnp.ones(3), jnp.ones(2)]}
    opt = WRAPPERS[wrapper].make().init(params)
    restored = WRAPPERS[wrapper].make().init({"layers": tuple(params["layers"])})
    for _ in range(2):
        expected, opt = opt.apply(params, params, value=1.0, value_fn=curved)
        got, restored = restored.apply(params, params, value=1.0, value_fn=curved)
        assert_equal(got, expected)
    assert jax.tree.structure(restored.optimizer) == jax.tree.structure(opt.optimizer)


def vector_and_still():
    return {k: x for k, x in params_and_still().items() if k != "matrix"}


def final_loss(wrapper, inner, hyperparameters, steps=5):
    def body(carry, step):
        params, opt = carry
        value, grads = jax.value_and_grad(loss)(params, step)
        # The third gradient is spoilt, where the wrapper is to see to that.
        spoilt = (step == 2) & WRAPPERS[wrapper].guards
        grads["vector"] = jnp.where(spoilt, jnp.nan, grads["vector"])
        value_fn = lambda params: loss(params, step)
        return opt.apply(grads, params, value=value, value_fn=value_fn), None

    params = vector_and_still()
    opt = WRAPPERS[wrapper].make(inner).replace(**hyperparameters).init(params)
    (params, opt), _ = jax.lax.scan(body, (params, opt), jnp.arange(steps, dtype=float))
    return loss(params, 0.0) + loss(opt.eval_params(params), 0.0)


@every_pair
def test_gradient_and_vmap(wrapper, inner, x64):
    """Slopes are finite, and a population is what its members are alone."""
    at = WRAPPERS[wrapper].make(inner).hyperparameters()
    final = lambda hyperparameters: final_loss(wrapper, inner, hyperparameters)
    run, batch = jax.jit(jax.value_and_grad(final)), jax.jit(jax.vmap(final))
    _, slopes = run(at)
    assert all(np.isfinite(x) for x in slopes.values())
    assert slopes[f"{inner}.learning_rate"] != 0
    counted = ("every", "sync_period", "patience", "accumulation_size")
    scales = {k: [1, 1, 1] if k in counted else [0.9, 0.95, 1] for k in at}
    for moved in ([f"{inner}.learning_rate"], list(at)):
        values = {
            k: x * jnp.asarray(scales[k] if k in moved else [1, 1, 1], float)
            for k, x in at.items()
        }
        alone = [run({k: v[i] for k, v in values.items()})[0] for i in range(3)]
        np.testing.assert_allclose(batch(values), alone, rtol=1e-9)


@every_wrapper
def test_complex_training(wrapper):
    params = {"z": jnp.asarray([1 + 2j, -0.5j, 0], jnp.complex64)}
    opt = WRAPPERS[wrapper].make().init(params)
    loss = lambda p: jnp.sum(jnp.square(p["z"].real) + jnp.square(p["z"].imag - 1))
    for _ in range(6):
        value, grads = jax.value_and_grad(loss)(params)
        grads = jax.tree.map(jnp.conj, grads)
        params, opt = opt.apply(grads, params, value=value, value_fn=loss)
    assert np.all(np.isfinite(np.asarray(params["z"])))
    assert loss(params) < 6


@every_wrapper
def test_sharded_state(wrapper):
    mesh = jax.make_mesh((8,), ("x",))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    params = {"w": jax.random.normal(jax.random.key(0), (16, 4))}
    grads = {"w": jax.random.normal(jax.random.key(1), (16, 4))}
    expected = params, WRAPPERS[wrapper].make().init(params)
    for _ in range(2):
        expected = step(expected[1], expected[0], grads)
    params, grads = jax.device_put((params, grads), rows)
    for init in (
        lambda p: WRAPPERS[wrapper].make().init(p),
        jax.jit(lambda p: WRAPPERS[wrapper].make().init(p)),
    ):
        got = params, init(params)
        for leaf in jax.tree.leaves(got[1]):
            if leaf.shape == (16, 4):
                assert leaf.sharding.is_equivalent_to(rows, 2)
        for _ in range(2):
            got = step(got[1], got[0], grads)
        assert got[0]["w"].sharding.is_equivalent_to(rows, 2)
        assert_close(got[0], expected[0], 1e-5)


def test_not_an_optimizer():
    with pytest.raises(TypeError):
        eqxopt.EMA(eqx.nn.Identity(), 0.9)
    # Users do not have the checks of shapes and types that these tests run with.
    with pytest.raises(TypeError, match="takes an optimizer first"):
        inspect.unwrap(as_optimizer)(eqx.nn.Identity())


@every_wrapper
class TestMistakes:
    def test_before_init(self, wrapper):
        name = type(WRAPPERS[wrapper].make()).__name__
        match = rf"`{name}` has no state: call `opt = opt.init\(model\)` first"
        with pytest.raises(ValueError, match=match):
            WRAPPERS[wrapper].make().apply({}, {}, value=1.0, value_fn=curved)

    def test_gradient_of_another_shape(self, wrapper):
        params = {"x": jnp.ones(2)}
        opt = WRAPPERS[wrapper].make().init(params)
        match = rf"`{type(opt).__name__}`: the gradient at \['x'\] has shape \(3,\)"
        with pytest.raises(ValueError, match=match):
            opt.apply({"x": jnp.ones(3)}, params, value=1.0, value_fn=curved)

    def test_a_parameter_that_init_did_not_see(self, wrapper):
        opt = WRAPPERS[wrapper].make().init({"x": jnp.ones(2), "y": None})
        params = {"x": jnp.ones(2), "y": jnp.ones(2)}
        with pytest.raises(ValueError, match=r"\['y'\] was no parameter when `init`"):
            opt.apply(params, params, value=1.0, value_fn=curved)

    def test_state_of_another_model(self, wrapper):
        opt = WRAPPERS[wrapper].make().init({"x": jnp.ones(2)})
        params = {"x": jnp.ones(3)}
        with pytest.raises(ValueError, match=r"state at \['x'\] does not fit"):
            opt.apply(params, params, value=1.0, value_fn=curved)

    def test_a_number_out_of_range(self, wrapper):
        opt = WRAPPERS[wrapper].make()
        for name in opt.hyperparameters():
            with pytest.raises(ValueError, match="must lie in"):
                opt.replace(**{name: float("nan")})
