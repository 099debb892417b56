"""Optimizers in the places where optax's go: optax itself, flax and optimistix."""

import subprocess
import sys

import equinox as eqx
import flax.linen
import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optimistix as optx
import pytest
from flax.training.train_state import TrainState
from problems import Model, nested_params
from training_loops import arrays, assert_close, gradients_at

import eqxopt
from eqxopt.interop import to_optax
from eqxopt.rules import begun, replace_fields


@pytest.fixture(autouse=True)
def jax_as_users_have_it():
    """Flax and optax mix dtypes and ranks."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def adamw():
    return eqxopt.AdamW(0.05, weight_decay=0.1)


def gradients(params, step):
    return gradients_at(params, step)[1]


def optax_steps(tx, params, steps, grads=gradients):
    state = tx.init(params)
    for step in range(steps):
        updates, state = tx.update(grads(params, step), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def own_steps(opt, params, steps, grads=gradients):
    opt = opt.init(params)
    for step in range(steps):
        params, opt = opt.apply(grads(params, step), params)
    return params, opt


class TestImports:
    def test_optax_is_imported_late(self):
        program = (
            "import sys, eqxopt\n"
            "assert eqxopt.interop.FromOptax and 'optax' not in sys.modules"
        )
        subprocess.run([sys.executable, "-c", program], check=True)

    def test_without_optax(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "optax", None)
        with pytest.raises(ImportError, match=r"pip install eqxopt\[optax\]"):
            to_optax(adamw())
        with pytest.raises(ImportError, match=r"pip install eqxopt\[optax\]"):
            eqxopt.interop.FromOptax(None)

    def test_without_flax(self, monkeypatch):
        monkeypatch.delitem(sys.modules, "flax.nnx")
        params, _ = optax_steps(to_optax(adamw()), nested_params(), 1)
        assert_close(params, own_steps(adamw(), nested_params(), 1)[0], 1e-6)


class TestAlone:
    def test_numbers(self, x64):
        params = nested_params(jnp.float64)
        got, state = optax_steps(to_optax(adamw()), params, 20)
        expected, opt = own_steps(adamw(), params, 20)
        assert_close(got, expected)
        assert_close(state, opt)

    def test_whole_model(self):
        model = Model()
        tx = to_optax(adamw())
        grads = eqx.filter(model, eqx.is_inexact_array)
        updates, state = tx.update(grads, tx.init(model), model)
        after = eqx.apply_updates(model, updates)
        expected, _ = adamw().init(model).apply(grads, model)
        assert_close(arrays(after), arrays(expected), 1e-6)
        assert after.activation is model.activation and state.count == 1

    @pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
    def test_scan_and_dtypes(self, dtype):
        """The updates have the parameters' dtype, also if the gradients have not."""
        params = nested_params(dtype)
        tx = to_optax(adamw())

        def step(carry, grad_scale):
            params, state = carry
            grads = jax.tree.map(lambda x: x.astype(jnp.float32) * grad_scale, params)
            updates, state = tx.update(grads, state, params)
            assert all(x.dtype == dtype for x in jax.tree.leaves(updates))
            return (jax.tree.map(jnp.add, params, updates), state), None

        (after, state), _ = jax.lax.scan(step, (params, tx.init(params)), jnp.ones(3))
        assert state.count == 3 and after["kernel"].dtype == dtype

    def test_none_gradient(self):
        params = {"a": jnp.ones(2), "b": jnp.ones(3)}
        tx = to_optax(adamw())
        state = tx.init(params)
        updates, after = tx.update({"a": jnp.ones(2), "b": None}, state, params)
        assert updates["b"] is None
        assert_close(after.state["b"], state.state["b"], 0)

    def test_init_again_after_donation(self):
        params = nested_params()
        tx = to_optax(adamw())

        @jax.jit
        def step(state, params):
            return tx.update(params, state, params)

        donating = jax.jit(step, donate_argnums=0)
        first, _ = donating(tx.init(params), params)
        again, _ = donating(tx.init(params), params)
        assert_close(first, again)

    def test_missing_parameters(self):
        tx = to_optax(adamw())
        state = tx.init(jnp.ones(2))
        with pytest.raises(ValueError, match="`AdamW` needs the parameters"):
            tx.update(jnp.ones(2), state)

    def test_value(self):
        tx = to_optax(eqxopt.PolyakSGD())
        x = jnp.array([1.0, 2.0])
        loss, grad = jax.value_and_grad(lambda x: jnp.sum(x**2))(x)
        updates, _ = tx.update(grad, tx.init(x), x, value=loss, unknown=3)
        np.testing.assert_allclose(updates, -x / 2)
        with pytest.raises(ValueError, match="needs the loss"):
            tx.update(grad, tx.init(x), x)


class BestStep(eqxopt.AbstractOptimizer):
    """Takes the best of some steps along the gradient."""

    def start(self, parameters):
        return begun(self, parameters)

    def advance(self, step):
        params = step.parameters
        tries = [[-(0.5**k) * grad for grad in step.grads] for k in range(6)]
        after = [[x + u for x, u in zip(params.arrays, tried)] for tried in tries]
        losses = [step.value_fn(params.model(arrays)) for arrays in after]
        new = replace_fields(self, count=self.count + 1)
        return tries[int(np.argmin(losses))], new

    def evaluate(self, parameters):
        return parameters.arrays


class TestInOptax:
    def test_chain(self, x64):
        params = nested_params(jnp.float64)
        tx = optax.chain(
            optax.clip_by_global_norm(0.5), to_optax(adamw()), optax.scale(0.5)
        )
        half = eqxopt.AdamW(0.025, weight_decay=0.1)
        clip = optax.clip_by_global_norm(0.5)

        def clipped(params, step):
            return clip.update(gradients(params, step), clip.init(params))[0]

        got, _ = optax_steps(tx, params, 10)
        assert_close(got, own_steps(half, params, 10, clipped)[0])

    def test_transform_in_a_chain(self, x64):
        params = nested_params(jnp.float64)
        clip = to_optax(eqxopt.ClipByGlobalNorm(0.5))
        got, _ = optax_steps(optax.chain(clip, optax.adam(0.1)), params, 10)
        both = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(0.1))
        assert_close(got, optax_steps(both, params, 10)[0])

    def test_multi_steps(self, x64):
        params = nested_params(jnp.float64)
        multi = optax.MultiSteps(
            to_optax(adamw()), every_k_schedule=3, accumulator_dtype=jnp.float64
        )
        got, state = optax_steps(multi, params, 12)
        opt = adamw().init(params)
        for start in range(0, 12, 3):
            three = [gradients(params, start + i) for i in range(3)]
            mean = jax.tree.map(lambda *g: sum(g) / 3, *three)
            params, opt = opt.apply(mean, params)
        assert_close(got, params)
        assert state.inner_opt_state.count == 4

    def test_apply_if_finite(self):
        params = {"x": jnp.ones(2)}
        tx = optax.apply_if_finite(to_optax(adamw()), 5)
        state = tx.init(params)
        updates, after = tx.update({"x": jnp.full(2, jnp.nan)}, state, params)
        assert_close(updates, {"x": jnp.zeros(2)})
        assert_close(after.inner_state, state.inner_state)

    def test_partition(self, x64):
        params = {"a": jnp.ones(2), "b": jnp.ones(3)}
        both = {"adam": to_optax(adamw()), "sgd": to_optax(eqxopt.SGD(0.1))}
        tx = optax.partition(both, {"a": "adam", "b": "sgd"})
        got, _ = optax_steps(tx, params, 5)
        for name, opt in (("a", adamw()), ("b", eqxopt.SGD(0.1))):
            expected, _ = own_steps(opt, params, 5)
            assert_close(got[name], expected[name])


class Network(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(2, 8, rngs=rngs)
        self.blocks = nnx.List([nnx.LayerNorm(8, rngs=rngs), nnx.Dropout(0.1)])
        self.last = nnx.Linear(8, 1, rngs=rngs)

    def __call__(self, x):
        x = jnp.tanh(self.first(x))
        for block in self.blocks:
            x = block(x, deterministic=True) if isinstance(block, nnx.Dropout) else x
        return self.last(x)


def data():
    x = jax.random.normal(jax.random.key(0), (32, 2))
    return x, jnp.sin(x[:, :1]) + x[:, 1:]


def network_loss(network):
    x, y = data()
    return jnp.mean(jnp.square(network(x) - y))


class TestFlax:
    def test_nnx(self):
        network = Network(nnx.Rngs(0))
        rate = lambda path, array: 0.1 if array.ndim > 1 else 0.05
        own = eqxopt.AdamW(rate, weight_decay=0.01)
        optimizer = nnx.Optimizer(network, to_optax(own), wrt=nnx.Param)
        graph, params, rest = nnx.split(network, nnx.Param, ...)
        params = nnx.to_pure_dict(params)
        own = own.init(params)
        traces = 0

        @nnx.jit
        def step(network, optimizer):
            nonlocal traces
            traces += 1
            loss, grads = nnx.value_and_grad(network_loss)(network)
            optimizer.update(network, grads)
            return loss

        @jax.jit
        def own_step(params, opt):
            loss = lambda p: network_loss(nnx.merge(graph, nnx.State(p), rest))
            return opt.apply(jax.grad(loss)(params), params)

        before = network_loss(network)
        for _ in range(50):
            step(network, optimizer)
            params, own = own_step(params, own)
        assert traces == 1 and int(optimizer.opt_state.count[...]) == 50
        assert network_loss(network) < 0.1 * before
        trained = nnx.to_pure_dict(nnx.state(network, nnx.Param))
        assert_close(trained, params, 1e-4)

    def test_nnx_state_by_hand(self):
        """Variables in, variables out."""
        params = nnx.state(Network(nnx.Rngs(0)), nnx.Param)
        losses = lambda p: jnp.sum(jnp.square(p["first"]["kernel"][...]))
        tx = to_optax(BestStep())
        updates, state = tx.update(params, tx.init(params), params, value_fn=losses)
        after = optax.apply_updates(params, updates)
        assert jax.tree.structure(after) == jax.tree.structure(params)
        assert losses(after) == 0 and state.count == 1

    def test_residuals_by_hand(self):
        """Those of variables are given variables."""
        params = nnx.state(Network(nnx.Rngs(0)), nnx.Param)
        residuals = lambda p: p["first"]["kernel"][...]
        tx = to_optax(eqxopt.GaussNewton(damping=1e-6))
        updates, _ = tx.update(params, tx.init(params), params, residual_fn=residuals)
        after = residuals(optax.apply_updates(params, updates))
        np.testing.assert_allclose(after, 0, atol=1e-4)

    def test_nnx_state_as_it_is(self):
        """The methods of the optimizer say what they need."""
        network = Network(nnx.Rngs(0))
        optimizer = nnx.Optimizer(
            network, to_optax(eqxopt.EMA(eqxopt.AdamW(0.1), 0.9)), wrt=nnx.Param
        )
        params, opt = nnx.state(network, nnx.Param), optimizer.opt_state
        for call in (
            lambda: opt.eval_params(params),
            lambda: opt.apply(params, params),
            lambda: opt.hyperparameters(),
            lambda: opt.replace(weight_decay=0.1),
            lambda: eqxopt.describe(opt, params),
        ):
            with pytest.raises(
                TypeError, match=r"`nnx.as_pure\(optimizer.opt_state\)`"
            ):
                call()
        optimizer.opt_state.optimizer.learning_rate[...] = 0.2
        rate = nnx.as_pure(opt).hyperparameters()["AdamW.learning_rate"]
        assert rate == jnp.float32(0.2)

    def test_nnx_with_value(self):
        network = Network(nnx.Rngs(0))
        optimizer = nnx.Optimizer(network, to_optax(eqxopt.PolyakSGD()), wrt=nnx.Param)
        before = network_loss(network)
        for _ in range(20):
            loss, grads = nnx.value_and_grad(network_loss)(network)
            optimizer.update(network, grads, value=loss)
        assert network_loss(network) < 0.5 * before

    def test_train_state(self):
        module = flax.linen.Dense(1)
        x, y = data()
        params = module.init(jax.random.key(0), x)["params"]
        state = TrainState.create(
            apply_fn=module.apply, params=params, tx=to_optax(adamw())
        )

        def loss(params):
            return jnp.mean(jnp.square(module.apply({"params": params}, x) - y))

        @jax.jit
        def step(state):
            return state.apply_gradients(grads=jax.grad(loss)(state.params))

        for _ in range(50):
            state = step(state)
        expected, _ = own_steps(adamw(), params, 50, lambda p, _: jax.grad(loss)(p))
        assert_close(state.params, expected, 1e-4)
        assert loss(state.params) < 0.1 * loss(params)
        assert state.opt_state.count == state.step == 50


class TestOptimistix:
    @pytest.mark.parametrize(
        "opt", [eqxopt.Adam(0.1), eqxopt.PolyakSGD(scaling=0.5)], ids=["Adam", "Polyak"]
    )
    def test_minimise(self, opt, x64):
        solver = optx.OptaxMinimiser(to_optax(opt), rtol=1e-8, atol=1e-8)

        def fn(y, args):
            return jnp.sum(jnp.square(y["a"] - args)) + jnp.sum(jnp.square(y["b"]))

        y0 = {"a": jnp.zeros(3), "b": jnp.ones(())}
        solution = optx.minimise(fn, solver, y0, args=2.0, max_steps=2000)
        assert_close(
            solution.value, {"a": jnp.full(3, 2.0), "b": jnp.zeros(())}, 1e-5, 1e-5
        )

    def test_another_rate_does_not_compile_again(self):
        # In a process of its own, without the hook around every function.
        program = """
import jax.numpy as jnp, optimistix as optx, eqxopt

traces = 0

def fn(y, args):
    global traces
    traces += 1
    return jnp.sum(jnp.square(y))

for rate in (0.1, 0.2):
    tx = eqxopt.interop.to_optax(eqxopt.Adam(rate))
    solver = optx.OptaxMinimiser(tx, 1e-3, 1e-3)
    optx.minimise(fn, solver, jnp.ones(2), max_steps=1000)
assert traces == 1
"""
        subprocess.run([sys.executable, "-c", program], check=True)
