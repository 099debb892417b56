"""Optax's transformations as optimizers: optax's numbers, and the contract."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from problems import Model, nested_params, small_params
from training_loops import (
    assert_close,
    avals,
    donating_step,
    scanned,
    step,
    stepped,
    trained,
    trained_by_optax,
)

import eqxopt
from eqxopt.interop import FromOptax


class Numbers(NamedTuple):
    """A state as some write it: numbers of Python and NumPy, and a nested parameter."""

    step: int
    rate: float
    scale: np.ndarray
    weak: jax.Array
    params: object


def with_numbers():
    def init(params):
        return Numbers(0, 0.1, np.ones(2), jnp.asarray(1.0), params)

    def update(updates, state, params=None):
        del params
        rate = state.rate * 0.9
        updates = jax.tree.map(lambda g: -rate * state.weak * g, updates)
        return updates, state._replace(
            step=state.step + 1, rate=rate, weak=state.weak * 1
        )

    return optax.GradientTransformation(init, update)


def halves(params):
    labels = ["a", "b"] * len(jax.tree.leaves(params))
    return jax.tree.unflatten(
        jax.tree.structure(params), labels[: len(jax.tree.leaves(params))]
    )


TRANSFORMATIONS = {
    "adamw": optax.adamw(0.01, weight_decay=0.1),
    "sgd": optax.sgd(0.01, momentum=0.9, nesterov=True),
    "chain": optax.chain(
        optax.clip_by_global_norm(0.5),
        optax.adam(lambda count: 0.1 / (1.0 + count.astype(float))),
    ),
    "inject": optax.inject_hyperparams(optax.adamw)(0.01),
    "multi_steps": optax.MultiSteps(optax.adam(0.1), 2, accumulator_dtype=jnp.float32),
    "masked": optax.masked(
        optax.add_decayed_weights(0.1),
        lambda params: jax.tree.map(lambda x: x.ndim > 1, params),
    ),
    "partition": optax.partition(
        {"a": optax.adam(0.1), "b": optax.sgd(0.1, momentum=0.9)}, halves
    ),
    "adafactor": optax.adafactor(0.01, min_dim_size_to_factor=2, momentum=0.9),
    "polyak": optax.chain(optax.clip(0.5), optax.polyak_sgd(0.1)),
    "prodigy": optax.contrib.prodigy(),
    "numbers": with_numbers(),
}
NAMES = list(TRANSFORMATIONS)


def made(name):
    return FromOptax(TRANSFORMATIONS[name])


@pytest.mark.parametrize("name", [n for n in NAMES if n != "multi_steps"])
def test_numbers_are_those_of_optax(name, x64):
    params = nested_params(jnp.float64)
    *_, (opt, got) = trained(made(name), params)
    *_, (state, expected) = trained_by_optax(TRANSFORMATIONS[name], params)
    assert_close(got, expected)
    assert_close(jax.tree.leaves(opt.state), jax.tree.leaves(state))


def test_multi_steps():
    params, grads = small_params(), small_params(seed=1)
    opt = made("multi_steps").init(params)
    after, opt = opt.apply(grads, params)
    assert_close(after, params, 0)
    after, opt = opt.apply(grads, after)
    expected, _ = FromOptax(optax.adam(0.1)).init(params).apply(grads, params)
    assert_close(after, expected, 1e-5)


def nonempty_params(seed=0):
    """Orbax does not save empty arrays."""
    return {k: x for k, x in small_params(seed=seed).items() if x.size}


@pytest.mark.parametrize("name", NAMES, scope="module")
class TestContract:
    def test_arrays_in_their_own_buffers(self, name):
        params = small_params()
        opt = made(name)
        assert jax.tree.leaves(opt) == []
        opt = opt.init(params)
        leaves = [x for x in jax.tree.leaves((opt, params)) if x.size > 0]
        assert all(isinstance(x, jax.Array) for x in leaves)
        pointers = [x.unsafe_buffer_pointer() for x in leaves]
        assert len(set(pointers)) == len(pointers)
        assert all(not x.weak_type for x in leaves)

    @pytest.mark.parametrize(
        "dtype, grad_dtype",
        [
            (jnp.float32, jnp.bfloat16),
            (jnp.bfloat16, jnp.float32),
            (jnp.float16, jnp.float16),
            (jnp.float64, jnp.float32),
        ],
    )
    def test_avals(self, name, dtype, grad_dtype, x64):
        def one_step():
            params, grads = small_params(dtype), small_params(grad_dtype, seed=1)
            opt = made(name).init(params)
            return (params, opt), opt.apply(grads, params, value=1.0)

        before, after = jax.eval_shape(one_step)
        assert avals(before) == avals(after)
        wide = jnp.float32 if jnp.finfo(dtype).bits < 32 else dtype
        updates = jax.eval_shape(
            lambda p, o: o.update(p, p, value=1.0)[0], before[0], before[1]
        )
        assert {x.dtype for x in jax.tree.leaves(updates)} == {jnp.dtype(wide)}
        for leaf in jax.tree.leaves(before[1]):
            if jnp.issubdtype(leaf.dtype, jnp.inexact):
                assert jnp.finfo(leaf.dtype).bits >= 32

    def test_scan_equals_loop_in_one_trace(self, name):
        params = small_params()
        opt = made(name).init(params)
        grads = [small_params(seed=i) for i in range(1, 4)]
        looped = step(opt, params, grads[0])
        programs = step._cache_size()
        looped = stepped(looped[1], looped[0], grads[1:])
        assert step._cache_size() == programs
        assert_close(scanned(opt, params, grads), looped, 1e-5)

    def test_donation_right_after_init(self, name):
        params = small_params()
        grads = small_params(seed=1)
        opt = made(name).init(params)
        expected = step(opt, params, grads)
        assert_close(donating_step(opt, params, grads), expected, 1e-5)
        assert params["matrix"].is_deleted()

    def test_init_under_jit_and_eval_shape(self, name):
        params = small_params()
        eager = made(name).init(params)
        assert avals(jax.eval_shape(made(name).init, params)) == avals(eager)
        assert_close(jax.jit(lambda p: made(name).init(p))(params), eager, 1e-5)

    def test_whole_model(self, name):
        model = Model()
        opt = made(name).init(model)
        grads = eqx.filter(model, eqx.is_inexact_array)
        after, opt = opt.apply(grads, model, value=1.0)
        after, opt = opt.apply(grads, after, value=1.0)
        assert type(after) is Model and after.activation is model.activation
        assert (after.steps, after.name, after.nothing) == (3, "model", None)
        assert not np.array_equal(after.layers[0].weight, model.layers[0].weight)
        assert opt.eval_params(after) is after and opt.count == 2

    @pytest.mark.parametrize("absent", [None, "float0"])
    def test_absent_gradient(self, name, absent):
        """The parameter stays, as does its place in the state: at every place but
        those of the other parameters and of the whole, that is."""
        params = small_params() | {"matrix": -jnp.zeros((4, 3))}
        opt = made(name).init(params)
        for seed in (1, 2):
            params, opt = step(opt, params, small_params(seed=seed))
        grads = small_params(seed=3)
        grads["matrix"] = (
            None if absent is None else np.zeros((4, 3), jax.dtypes.float0)
        )
        new, new_opt = opt.apply(grads, params, value=1.0)
        new, new_opt = new_opt.apply(grads, new, value=1.0)
        assert new["matrix"].tobytes() == params["matrix"].tobytes()
        assert not np.array_equal(new["vector"], params["vector"])
        flat, _ = jax.tree.flatten_with_path(opt.state)
        kept = 0
        for (path, old), leaf in zip(flat, jax.tree.leaves(new_opt.state)):
            if "matrix" in jax.tree_util.keystr(path):
                assert leaf.tobytes() == old.tobytes()
                kept += 1
        assert kept or name in ("masked", "polyak")

    def test_no_gradient_at_all(self, name):
        opt = made(name).init(jnp.ones(3))
        after, new = opt.apply(None, jnp.ones(3), value=1.0)
        assert_close(after, jnp.ones(3), 0)
        assert_close(new.state, opt.state, 0)

    def test_checkpoints(self, name, tmp_path):
        params = nonempty_params()
        opt = made(name).init(params)
        params, opt = step(opt, params, nonempty_params(seed=1))
        fresh = made(name).init(nonempty_params(seed=2))
        eqx.tree_serialise_leaves(tmp_path / "checkpoint.eqx", opt)
        loaded = eqx.tree_deserialise_leaves(tmp_path / "checkpoint.eqx", fresh)
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(tmp_path / "checkpoint", opt)
            checkpointer.wait_until_finished()
            restored = checkpointer.restore(tmp_path / "checkpoint", fresh)
        expected = step(opt, params, nonempty_params(seed=3))
        for other in (loaded, restored):
            assert_close(step(other, params, nonempty_params(seed=3)), expected, 0)

    def test_sharded_state(self, name):
        mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
        rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
        params = {"w": jax.random.normal(jax.random.key(0), (16, 4))}
        expected, _ = made(name).init(params).apply(params, params, value=1.0)
        params = jax.device_put(params, rows)
        for init in (made(name).init, jax.jit(lambda p: made(name).init(p))):
            opt = init(params)
            for leaf in jax.tree.leaves(opt.state):
                if leaf.shape == (16, 4):
                    assert leaf.sharding.is_equivalent_to(rows, 2)
            got, _ = step(opt, params, params)
            assert_close(got, expected, 1e-5)


def test_containers_of_another_kind():
    """A checkpoint may turn tuples into lists, and a model may change what is static
    in it: the state still fits."""
    model = {"layers": (jnp.ones(2), jnp.ones(3))}
    opt = FromOptax(optax.adam(0.1)).init(model)
    listed = eqx.tree_at(
        lambda o: o.state,
        opt,
        [list(part) if type(part) is tuple else part for part in opt.state],
    )
    expected, _ = opt.apply(model, model)
    got, after = listed.apply(model, model)
    assert_close(got, expected, 0)
    assert jax.tree.structure(after) == jax.tree.structure(listed)


def test_lbfgs():
    """`value_fn` gets a model: with its functions, and in its dtypes."""
    model = Model(dtype=jnp.bfloat16)
    x = jnp.linspace(-1, 1, 12).reshape(4, 3)

    def value_fn(model):
        assert model.activation is jax.nn.tanh
        assert model.scale.dtype == jnp.bfloat16
        y = jax.vmap(model)(x.astype(jnp.bfloat16))
        return jnp.mean(jnp.square(y.astype(jnp.float32) - 1.0))

    opt = FromOptax(optax.lbfgs(memory_size=3)).init(model)
    before = value_fn(model)
    for _ in range(5):
        value, grads = eqx.filter_value_and_grad(value_fn)(model)
        model, opt = opt.apply(grads, model, value=value, value_fn=value_fn)
    assert value_fn(model) < 0.1 * before


def test_complex():
    params = {"z": jnp.asarray([1 + 2j, -0.5j], jnp.complex64)}
    tx = optax.sgd(0.1, momentum=0.9)
    got, opt = FromOptax(tx).init(params).apply(params, params)
    assert_close(got, {"z": 0.9 * params["z"]}, 1e-5)
    assert opt.state[0].trace["z"].dtype == jnp.complex64


def test_changing_an_injected_hyperparameter():
    params = small_params()
    opt = made("inject").init(params)
    step(opt, params, params)
    programs = step._cache_size()
    slower = eqx.tree_at(
        lambda opt: opt.state.hyperparams["learning_rate"], opt, jnp.zeros(())
    )
    after, _ = step(slower, params, params)
    assert_close(after, params, 0)
    assert step._cache_size() == programs
    assert opt.hyperparameters() == {}


def test_composes():
    """With what wraps any optimizer, and back in optax."""
    params = small_params()
    clip = eqxopt.ClipByGlobalNorm(0.5)
    opt = eqxopt.Chain(clip, FromOptax(optax.sgd(0.1))).init(params)
    got, _ = opt.apply(params, params)
    own = eqxopt.Chain(clip, eqxopt.SGD(0.1)).init(params)
    assert_close(got, own.apply(params, params)[0], 1e-5)
    tx = eqxopt.interop.to_optax(FromOptax(optax.sgd(0.1)))
    updates, _ = tx.update(params, tx.init(params), params)
    assert_close(updates, jax.tree.map(lambda x: -0.1 * x, params), 1e-5)


def test_empty_model():
    for name in ("adamw", "chain", "numbers"):
        for model in ({}, None, {"f": jnp.tanh, "n": 3}):
            opt = made(name).init(model)
            after, opt = opt.apply(jax.tree.map(lambda _: None, model), model)
            assert after == model and opt.count == 1


class TestMistakes:
    def test_no_transformation(self):
        with pytest.raises(TypeError, match="takes an optax transformation"):
            FromOptax(0.1)

    def test_before_init(self):
        with pytest.raises(ValueError, match="`FromOptax` has no state"):
            made("adamw").apply(jnp.ones(2), jnp.ones(2))

    def test_another_model(self):
        opt = made("adamw").init(small_params())
        wrong = {
            r"differs at 0.mu.extra, of shape \(2,\)": (
                small_params() | {"extra": jnp.ones(2)}
            ),
            r"differs at 0.mu.vector, of shape \(5,\)": (
                small_params() | {"vector": jnp.ones(5)}
            ),
        }
        for message, params in wrong.items():
            with pytest.raises(ValueError, match=message):
                opt.apply(params, params)

    def test_gradient_of_another_shape(self):
        opt = made("adamw").init(small_params())
        grads = small_params() | {"matrix": jnp.ones((4, 1))}
        with pytest.raises(ValueError, match=r"`FromOptax`: the gradient at \['matr"):
            opt.apply(grads, small_params())

    def test_missing_value(self):
        params = small_params()
        with pytest.raises(ValueError, match=r"apply\(grads, model, value=\.\.\.\)"):
            made("polyak").init(params).apply(params, params)
        with pytest.raises(ValueError, match=r"value=\.\.\., value_fn=\.\.\.\)"):
            FromOptax(optax.lbfgs()).init(params).apply(params, params)

    def test_state_that_is_no_array(self):
        tx = optax.GradientTransformation(lambda params: {"name": "sgd"}, None)
        with pytest.raises(TypeError, match=r"'sgd' at \['name'\]"):
            FromOptax(tx).init(small_params())

    def test_errors_of_optax_stay_their_own(self):
        def update(updates, state, params=None):
            raise TypeError("something else")

        tx = optax.GradientTransformation(lambda params: (), update)
        with pytest.raises(TypeError, match="something else"):
            FromOptax(tx).init(jnp.ones(2)).apply(jnp.ones(2), jnp.ones(2))
