"""What every optimizer keeps: the eight points, case by case."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from cases import each, OPTIMIZERS as TABLE, OWN_OPTIMIZERS
from problems import CURVED, Model, small_params
from training_loops import (
    arrays,
    assert_close,
    assert_equal,
    avals,
    donating_step,
    scanned,
    step,
    stepped,
)

import eqxopt


OPTIMIZERS = TABLE | OWN_OPTIMIZERS


# All tests of one case run in a row, so that they share compiled programs.
every_optimizer = pytest.mark.parametrize("name", each(OPTIMIZERS), scope="module")


@every_optimizer
class TestArraysOnly:
    def test_every_leaf_is_an_array(self, name):
        opt = OPTIMIZERS[name].make()
        params = small_params()
        made = opt.init(params)
        _, after = step(made, params, params)
        for tree in (opt, made, after):
            assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(tree))

    def test_no_two_leaves_share_a_buffer(self, name):
        params = small_params()
        opt = OPTIMIZERS[name].make().init(params)
        leaves = [x for x in jax.tree.leaves((opt, params)) if x.size > 0]
        pointers = [x.unsafe_buffer_pointer() for x in leaves]
        assert len(set(pointers)) == len(pointers)


GRADIENT_DTYPES = [
    (jnp.float32, jnp.bfloat16),
    (jnp.bfloat16, jnp.float32),
    (jnp.float16, jnp.float16),
    (jnp.float64, jnp.float32),
    (jnp.complex64, jnp.complex64),
]


@every_optimizer
class TestSameInSameOut:
    @pytest.mark.parametrize("dtype, grad_dtype", GRADIENT_DTYPES)
    def test_avals_and_treedef(self, name, dtype, grad_dtype, x64):
        case = OPTIMIZERS[name]
        if jnp.issubdtype(dtype, jnp.complexfloating) and not case.complex:
            with pytest.raises(TypeError, match="complex"):
                jax.eval_shape(lambda: case.make().init(small_params(dtype)))
            return

        def one_step():
            params, grads = small_params(dtype), small_params(grad_dtype, seed=1)
            opt = case.make().init(params)
            after = opt.apply(grads, params, **CURVED)
            return (params, opt), after

        before, after = jax.eval_shape(one_step)
        assert avals(before) == avals(after)
        wide = jnp.float32 if jnp.finfo(dtype).bits < 32 else dtype
        for leaf in jax.tree.leaves(before[1].state):
            if jnp.issubdtype(leaf.dtype, jnp.inexact):
                assert jnp.finfo(leaf.dtype).bits >= 32
        updates = jax.eval_shape(
            lambda p, o: o.update(p, p, **CURVED)[0],
            before[0],
            before[1],
        )
        assert {x.dtype for x in jax.tree.leaves(updates)} == {jnp.dtype(wide)}

    def test_a_copy_begins_like_the_original(self, name):
        opt = OPTIMIZERS[name].make()
        copied = jax.tree.map(jnp.copy, opt)
        begun = [jax.eval_shape(x.init, small_params()) for x in (opt, copied)]
        assert jax.tree.structure(begun[0]) == jax.tree.structure(begun[1])

    def test_one_trace(self, name):
        """One program does ten steps, with a schedule or another hyperparameter."""
        rate = hyperparameter(OPTIMIZERS[name].make())
        plain = OPTIMIZERS[name].make().init(small_params())
        grads = small_params(seed=1)
        moving = lambda count: 0.1 / (1.0 + count.astype(float))
        for made in (plain.replace(**{rate: moving}), plain):
            opt, params = made, small_params()
            params, opt = step(opt, params, grads)
            programs = step._cache_size()
            for _ in range(9):
                params, opt = step(opt, params, grads)
            assert step._cache_size() == programs
        step(plain.replace(**{rate: 0.5}), small_params(), grads)
        assert step._cache_size() == programs

    def test_scan_equals_loop(self, name, x64):
        # In float64: some optimizers keep a difference of nearly equal sums.
        params = small_params(float)
        opt = OPTIMIZERS[name].make().init(params)
        grads = [small_params(float, seed=i) for i in range(1, 4)]
        assert_close(scanned(opt, params, grads), stepped(opt, params, grads), 1e-9)

    def test_donation_right_after_init(self, name):
        params = small_params()
        grads = small_params(seed=1)
        opt = OPTIMIZERS[name].make().init(params)
        expected = step(opt, params, grads)
        assert_close(donating_step(opt, params, grads), expected, 1e-5)
        assert params["matrix"].is_deleted() and opt.count.is_deleted()

    def test_init_under_jit_and_eval_shape(self, name):
        params = small_params()
        eager = OPTIMIZERS[name].make().init(params)
        assert avals(jax.eval_shape(OPTIMIZERS[name].make().init, params)) == avals(
            eager
        )
        assert_close(
            jax.jit(lambda p: OPTIMIZERS[name].make().init(p))(params), eager, 1e-5
        )


def next_step(model, opt):
    grads = jax.tree.map(jnp.sin, eqx.filter(model, eqx.is_inexact_array))
    return opt.apply(grads, model, **CURVED)


def hyperparameter(opt):
    """The learning rate, under the name that this optimizer gives it."""
    names = list(opt.hyperparameters())
    return "learning_rate" if "learning_rate" in names else names[0]


@every_optimizer
class TestModelInModelOut:
    def test_whole_model(self, name):
        model = Model()
        opt = OPTIMIZERS[name].make().init(model)
        grads = eqx.filter(model, eqx.is_inexact_array)
        after, opt = opt.apply(grads, model, **CURVED)
        # The first step of some only gathers statistics.
        after, opt = opt.apply(grads, after, **CURVED)
        assert type(after) is Model and after.activation is model.activation
        assert (after.steps, after.name, after.nothing) == (3, "model", None)
        assert not np.array_equal(after.layers[0].weight, model.layers[0].weight)
        assert type(opt.eval_params(after)) is Model

    def test_saved_and_loaded(self, name, tmp_path):
        """By equinox, model and optimizer, and by orbax, the optimizer: the next step
        is the same to the bit."""
        trained = Model(), OPTIMIZERS[name].make().init(Model())
        for _ in range(2):
            trained = next_step(*trained)
        model, opt = trained
        other = Model(jax.random.key(1))
        fresh = OPTIMIZERS[name].make().init(other)
        eqx.tree_serialise_leaves(tmp_path / "checkpoint.eqx", trained)
        loaded = eqx.tree_deserialise_leaves(
            tmp_path / "checkpoint.eqx", (other, fresh)
        )
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(tmp_path / "checkpoint", opt)
            checkpointer.wait_until_finished()
            restored = checkpointer.restore(tmp_path / "checkpoint", fresh)
        expected = arrays(next_step(*trained))
        assert_equal(arrays(next_step(*loaded)), expected)
        assert_equal(arrays(next_step(model, restored)), expected)

    def test_absent_gradients_change_nothing(self, name):
        params = small_params()
        opt = OPTIMIZERS[name].make().init(params)
        params, opt = step(opt, params, small_params(seed=1))
        grads = small_params(seed=2)
        grads |= {"matrix": None, "scalar": np.zeros((), jax.dtypes.float0)}
        new, new_opt = opt.apply(grads, params, **CURVED)
        for absent in ("matrix", "scalar"):
            assert_equal(new[absent], params[absent])
            if opt.state != ():
                assert_equal(new_opt.state[absent], opt.state[absent])
        assert not np.array_equal(new["vector"], params["vector"])

    def test_empty_model(self, name):
        for model in ({}, None, {"f": jnp.tanh, "n": 3}):
            opt = OPTIMIZERS[name].make().init(model)
            after, opt = opt.apply(jax.tree.map(lambda _: None, model), model, **CURVED)
            assert after == model and opt.count == 1


@every_optimizer
class TestPrecision:
    def test_zero_gradients_in_half_precision(self, name):
        params = jax.tree.map(lambda x: x.astype(jnp.float16), small_params())
        zeros = jax.tree.map(jnp.zeros_like, params)
        opt = OPTIMIZERS[name].make().init(params)
        for _ in range(3):
            params, opt = step(opt, params, zeros)
        for leaf in jax.tree.leaves((params, opt)):
            assert np.all(np.isfinite(np.asarray(leaf, np.float64)))

    def test_complex_training(self, name):
        if not OPTIMIZERS[name].complex:
            pytest.skip("real parameters only")
        params = {"z": jnp.asarray([1 + 2j, -0.5j, 0], jnp.complex64)}
        opt = OPTIMIZERS[name].make().init(params)
        residuals = lambda p: (p["z"] - 1j) * 2**0.5
        loss = lambda p: jnp.sum(jnp.square(p["z"].real) + jnp.square(p["z"].imag - 1))
        for _ in range(5):
            value, grads = jax.value_and_grad(loss)(params)
            grads = jax.tree.map(jnp.conj, grads)
            params, opt = opt.apply(
                grads, params, value=value, value_fn=loss, residual_fn=residuals
            )
        assert np.all(np.isfinite(np.asarray(params["z"])))
        assert loss(params) < 7.26


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.bfloat16, jnp.complex64])
def test_dtype_options(dtype, x64):
    """An optimizer's own dtype option is what its state is kept in."""
    params = small_params(dtype)
    made = {
        "mu": eqxopt.Adam(0.1, mu_dtype=jnp.bfloat16),
        "trace": eqxopt.SGD(0.1, momentum=0.9, accumulator_dtype=jnp.float32),
    }
    for field, opt in made.items():
        _, opt = step(opt.init(params), params, params)
        kept = getattr(opt.state["matrix"], field).dtype
        if jnp.issubdtype(dtype, jnp.complexfloating):
            assert kept == dtype  # a real dtype says nothing about complex state
        else:
            assert kept == (jnp.bfloat16 if field == "mu" else jnp.float32)


@every_optimizer
def test_sharded_state(name):
    """State lies where its parameter lies, and the numbers stay."""
    mesh = jax.make_mesh((8,), ("x",))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    keys = jax.random.split(jax.random.key(0), (2, 2))
    params, grads = (
        {name: jax.random.normal(key, (16, 4)) for name, key in zip("wv", row)}
        for row in keys
    )
    expected, _ = step(OPTIMIZERS[name].make().init(params), params, grads)
    params, grads = jax.device_put((params, grads), rows)
    inits = (
        lambda p: OPTIMIZERS[name].make().init(p),
        jax.jit(lambda p: OPTIMIZERS[name].make().init(p)),
    )
    for init in inits:
        opt = init(params)
        for leaf in jax.tree.leaves(opt.state):
            if leaf.shape == (16, 4):
                assert leaf.sharding.is_equivalent_to(rows, 2)
        got, _ = step(opt, params, grads)
        assert got["w"].sharding.is_equivalent_to(rows, 2)
        assert_close(got, expected, 1e-5)
