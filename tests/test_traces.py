"""A loss is evaluated with what it reads now, also when it is called eagerly."""

import functools
import gc
import sys
import types

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqxopt
from eqxopt._compile.traces import compiled, traced
from eqxopt.rules import begun


TARGETS = jnp.array([1.0, 2.0]), jnp.array([3.0, -1.0]), jnp.array([-2.0, 7.0])
TARGET = TARGETS[0]
SCALE = 1.0


def squares(x, target):
    return jnp.sum(jnp.square(x - target))


def global_loss(x):
    return squares(x, TARGET)


def scaled_loss(x):
    return squares(x, TARGETS[0] * SCALE)


class Task:
    target = TARGETS[0]
    shared = TARGETS[0]

    def loss(self, x):
        return squares(x, self.target)

    @classmethod
    def shared_loss(cls, x):
        return squares(x, cls.shared)

    def __call__(self, x):
        return squares(x, self.target)


class Model(eqx.Module):
    x: jax.Array

    def __call__(self):
        return self.x - TARGET


@jax.custom_vjp
def turned(x):
    return x


turned.defvjp(lambda x: (x, None), lambda _, g: (-SCALE * g,))


def by_attribute(monkeypatch):
    task = Task()
    return task.loss, lambda target: setattr(task, "target", target)


def by_call(monkeypatch):
    task = Task()
    return task, lambda target: setattr(task, "target", target)


def by_class(monkeypatch):
    set_shared = lambda target: monkeypatch.setattr(Task, "shared", target)
    return Task.shared_loss, set_shared


def by_global(monkeypatch):
    set_global = lambda target: monkeypatch.setitem(globals(), "TARGET", target)
    return global_loss, set_global


def by_module(monkeypatch):
    settings = types.ModuleType("settings")
    settings.target = TARGETS[0]
    change = lambda target: setattr(settings, "target", target)
    return (lambda x: squares(x, settings.target)), change


def by_class_of_a_module(monkeypatch):
    settings = types.ModuleType("settings")
    settings.Inner = type("Inner", (), {"target": TARGETS[0]})
    change = lambda target: setattr(settings.Inner, "target", target)
    return (lambda x: squares(x, settings.Inner.target)), change


def by_function_of_a_module(monkeypatch):
    other = types.ModuleType("other")
    other.target = TARGETS[0]
    exec("def loss(x):\n    return ((x - target) ** 2).sum()\n", vars(other))
    return (lambda x: other.loss(x)), lambda target: setattr(other, "target", target)


def by_getattr(monkeypatch):
    settings = types.SimpleNamespace(target=TARGETS[0])
    change = lambda target: setattr(settings, "target", target)
    return (lambda x: squares(x, getattr(settings, "tar" + "get"))), change


def by_iterator(monkeypatch):
    queue = []
    return (lambda x: squares(x, queue[-1])), queue.append


def by_number(monkeypatch):
    """In parts, as plain numbers."""
    settings = types.ModuleType("settings")
    settings.a, settings.b = 1.0, 2.0

    def change(target):
        settings.a, settings.b = map(float, target)

    loss = lambda x: (x[0] - settings.a) ** 2 + (x[1] - settings.b) ** 2
    return loss, change


def by_dictionary(monkeypatch):
    settings = {"target": TARGETS[0]}
    change = lambda target: settings.update(target=target)
    return (lambda x: squares(x, settings["target"])), change


def by_cell(monkeypatch):
    target = TARGETS[0]

    def change(new):
        nonlocal target
        target = new

    return (lambda x: squares(x, target)), change


def by_array_in_place(monkeypatch):
    target = np.array(TARGETS[0])
    change = lambda new: np.copyto(target, new)
    return (lambda x: squares(x, target)), change


def by_partial(monkeypatch):
    task = Task()
    loss = functools.partial(lambda task, x: task.loss(x), task)
    return loss, lambda target: setattr(task, "target", target)


def by_default(monkeypatch):
    settings = [TARGETS[0]]

    def loss(x, settings=settings):
        return squares(x, settings[0])

    return loss, lambda target: settings.__setitem__(0, target)


WAYS = {name: make for name, make in list(globals().items()) if name.startswith("by_")}


@pytest.mark.parametrize("way", WAYS)
def test_lbfgs(way, monkeypatch):
    """The minimum is that of what the loss reads now."""
    loss, change = WAYS[way](monkeypatch)
    opt = eqxopt.LBFGS()
    for target in TARGETS:
        change(target)
        x = jnp.zeros(2)
        opt = opt.init(x)
        for _ in range(3):
            value, grads = opt.value_and_grad(loss, x)
            x, opt = opt.apply(grads, x, value=value, value_fn=loss)
        np.testing.assert_allclose(x, target, atol=1e-4)


@pytest.mark.parametrize("way", WAYS)
def test_sam(way, monkeypatch):
    loss, change = WAYS[way](monkeypatch)
    x = jnp.zeros(2)
    opt = eqxopt.SAM(eqxopt.SGD(0.5), rho=1e-6).init(x)
    for target in TARGETS:
        change(target)
        x, opt = opt.apply(jax.grad(loss)(x), x, value_fn=loss)
        np.testing.assert_allclose(x, target, atol=1e-3)


def test_what_a_method_of_the_model_reads(monkeypatch):
    model = Model(jnp.zeros(2))
    loss = lambda model: jnp.sum(jnp.square(model()))
    opt = eqxopt.SAM(eqxopt.SGD(0.5), rho=1e-6).init(model)
    for target in TARGETS:
        monkeypatch.setitem(globals(), "TARGET", target)
        model, opt = opt.apply(jax.grad(loss)(model), model, value_fn=loss)
        np.testing.assert_allclose(model.x, target, atol=1e-3)


def test_what_the_rule_of_a_derivative_reads(monkeypatch):
    loss = lambda x: jnp.sum(jnp.square(turned(x)))
    opt = eqxopt.SAM(eqxopt.SGD(0.5), rho=1e-6).init(jnp.ones(2))
    for scale in (1.0, -1.0):
        monkeypatch.setitem(globals(), "SCALE", scale)
        x, _ = opt.apply(jnp.ones(2), jnp.ones(2), value_fn=loss)
        np.testing.assert_allclose(x, 1 + scale, atol=1e-3)


def test_a_model_changed_in_place():
    layers = [jnp.ones(2), jnp.tanh]
    loss = lambda layers: jnp.sum(layers[1](layers[0]))
    opt = eqxopt.SAM(eqxopt.SGD(1.0), rho=1e-6).init(layers)
    grads = [jnp.ones(2), None]
    opt.apply(grads, layers, value_fn=loss)
    layers[1] = jnp.negative
    (x, _), _ = opt.apply(grads, layers, value_fn=loss)
    np.testing.assert_allclose(x, 2.0, atol=1e-3)


@pytest.fixture
def run():
    """Runs a function in a compiled one; `run.compilations` counts."""

    @compiled
    def evaluate(x, function):
        run.compilations += 1
        return function(x)

    def run(function, x):
        return evaluate(x, traced(function, x))

    run.compilations = 0
    return run


class Scaled(eqx.Module):
    factor: jax.Array

    def __call__(self, x):
        return jnp.sum(jax.nn.relu(self.factor * x))


MAKE = {
    "closure": lambda batch: lambda x: squares(x, batch),
    "nested": lambda batch: lambda x: jax.vmap(squares, (0, None))(x[None], batch),
    "default": lambda batch: lambda x, batch=batch: squares(x, batch),
    "partial": lambda batch: functools.partial(squares, target=batch),
    "module": lambda batch: Scaled(jnp.asarray(batch)),
    "jitted": lambda batch: lambda x: jax.jit(squares)(x, batch),
    "method": lambda batch: (lambda t: setattr(t, "target", batch) or t.loss)(Task()),
    "loop": lambda batch: (
        lambda x: jax.lax.fori_loop(0, 3, lambda _, c: c + squares(x, batch), 0.0)
    ),
    "library": lambda batch: lambda x: jnp.sum(jax.nn.silu(jax.nn.relu(x * batch))),
    "checkpoint": lambda batch: lambda x: jax.checkpoint(squares)(x, batch),
    "solve": lambda batch: (
        lambda x: jnp.sum(jnp.linalg.solve(jnp.eye(2) + jnp.outer(batch, batch), x))
    ),
}


@pytest.mark.parametrize("name", MAKE)
def test_compiled_once(name, run):
    """A function made anew is the same program with other arrays."""
    x = jnp.ones(2)
    for factor in (1.0, 2.0, 3.0):
        function = MAKE[name](np.full(2, factor, np.float32))
        np.testing.assert_allclose(run(function, x), function(x), rtol=1e-6)
    assert run.compilations == 1


def test_other_numbers_and_other_code_are_other_programs(run):
    x = jnp.ones(2)
    scaled = lambda scale: lambda x: scale * jnp.sum(x)
    assert [run(scaled(s), x) for s in (2.0, 3.0, 0.0, -0.0)] == [4, 6, 0, 0]
    assert np.signbit(run(scaled(-0.0), x))
    assert run.compilations == 4
    assert run(lambda x: jnp.sum(x) + 1, x) == 3
    assert run.compilations == 5


def test_static_leaves_of_equal_value_are_told_apart():
    """Leaves that are no arrays pass through as they are."""
    for other in (1, 1.0, True, "a", None):
        params = {"x": jnp.ones(2), "other": other}
        grads = {"x": jnp.ones(2), "other": None}
        new, _ = eqxopt.SGD(0.1).init(params).apply(grads, params)
        assert type(new["other"]) is type(other) and new["other"] == other


def test_a_compiled_loss_with_a_rule_of_its_own_compiles_once(run):
    loss = jax.jit(lambda x: jnp.sum(turned(x)))
    for _ in range(3):
        assert run(loss, jnp.ones(2)) == 2
    assert run.compilations == 1


def test_programs_that_do_not_come_again_are_forgotten(run):
    from eqxopt._compile.traces import _programs

    before = len(_programs)
    for i in range(100):
        run(lambda x: jnp.sum(i * x), jnp.ones(2))
    assert run.compilations == 100
    gc.collect()
    assert len(_programs) - before <= 64


def test_arrays_are_not_kept_alive():
    batch = jnp.ones(2)
    count = sys.getrefcount(batch)
    x = jnp.ones(2)
    opt = eqxopt.SAM(eqxopt.SGD(0.5)).init(x)
    opt.apply(x, x, value_fn=lambda x: squares(x, batch))
    assert sys.getrefcount(batch) == count


def test_results_and_errors(run):
    """What a function returns comes back in its own structure; what it raises is
    raised."""
    assert run(lambda x: {"a": (x, 1.0)}, jnp.ones(()))["a"][1] == 1
    opt = eqxopt.SAM(eqxopt.SGD(0.5)).init(jnp.ones(2))
    with pytest.raises(ValueError, match=r"`SAM`: `value_fn` must give a scalar"):
        opt.apply(jnp.ones(2), jnp.ones(2), value_fn=lambda x: x)
    with pytest.raises(ValueError, match=r"`Chain`: .*shape \(2,\)"):
        chain = eqxopt.Chain(opt).init(jnp.ones(2))
        chain.apply(jnp.ones(2), jnp.ones(2), value_fn=lambda x: x)


def test_another_model_is_named():
    class Widening(eqxopt.AbstractOptimizer):
        uses_value_fn = True

        def start(self, parameters):
            return begun(self, parameters)

        def advance(self, step):
            step.value_fn(jnp.ones(3))
            return step.grads, self

        def evaluate(self, parameters):
            return parameters.arrays

    x = jnp.ones(2)
    with pytest.raises(ValueError, match="can only be called with a model whose"):
        loss = lambda x: getattr(jnp, "sum")(x * x)  # which no look at the code tells
        Widening().init(x).apply(x, x, value_fn=loss)


def test_under_transformations():
    """Eager calls inside `vmap` and `grad`, with a loss that reads what is mapped."""
    opt = eqxopt.SAM(eqxopt.SGD(0.5), rho=1e-6)

    def step(target):
        x = jnp.zeros(2)
        loss = lambda x: squares(x, target)
        new, _ = opt.init(x).apply(jax.grad(loss)(x), x, value_fn=loss)
        return new

    np.testing.assert_allclose(
        jax.vmap(step)(jnp.stack(TARGETS)), jnp.stack(TARGETS), atol=1e-3
    )
    slope = jax.grad(lambda target: jnp.sum(step(target)))(TARGETS[1])
    np.testing.assert_allclose(slope, 1.0, atol=1e-3)
