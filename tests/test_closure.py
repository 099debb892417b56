"""A function made anew is the same function with other arrays."""

import argparse
import dataclasses
import functools
import importlib
import operator
import os
import sys
import types
from os import environ

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from beartype import beartype
from jaxtyping import Array, Float, jaxtyped

import eqxopt
from eqxopt._compile.captured import Closure
from eqxopt._compile.closures import as_pytree, Reader
from eqxopt.rules import begun


BATCH = np.ones(2)


def product(x, batch, scale=1.0):
    return jnp.sum(x * batch) * scale


def product_with_global(x):
    return jnp.sum(x * BATCH)


def recursive(x, depth=2):
    return jnp.sum(x) if depth == 0 else recursive(2 * x, depth - 1)


class Scale(eqx.Module):
    factor: jax.Array

    def __call__(self, x):
        return jnp.sum(self.factor * x)


class Holder:
    def __init__(self, batch):
        self.batch = batch


@pytest.fixture
def run():
    """Runs a function as a pytree, compiled; `run.traces` counts."""

    @eqx.filter_jit
    def compiled(function, x):
        run.traces += 1
        return function(x)

    def run(function, x):
        return compiled(as_pytree(function), x)

    run.traces = 0
    return run


def nested(batch):
    inner = lambda x: product(x, batch["x"])
    return lambda x: inner(x)


MAKE = {
    "closure": lambda batch: lambda x: product(x, batch),
    "dictionary": lambda batch: nested({"x": batch, "name": "batch"}),
    "default": lambda batch: lambda x, batch=batch: product(x, batch),
    "keyword": lambda batch: lambda x, *, batch=batch: product(x, batch),
    "partial": lambda batch: functools.partial(product, batch=batch),
    "partial inside": lambda batch: (lambda f: lambda x: f(x))(
        functools.partial(product, batch=batch)
    ),
    "model": lambda batch: (lambda m: lambda x: m(x))(Scale(jnp.asarray(batch))),
    "module": lambda batch: Scale(jnp.asarray(batch)),
    "library": lambda batch: lambda x: jnp.sum(jax.nn.relu(x * batch)),
    "jitted": lambda batch: lambda x: jax.jit(product)(x, batch),
    "no array": lambda batch: lambda x: product(x, 1.0) * 0 + jnp.sum(x),
}


@pytest.mark.parametrize("name", MAKE)
def test_compiled_once(name, run):
    x = jnp.ones(2)
    for factor in (1.0, 2.0, 3.0):
        function = MAKE[name](np.full(2, factor, np.float32))
        np.testing.assert_allclose(run(function, x), function(x))
    assert run.traces == 1


def test_globals(run, monkeypatch):
    """A function that reads a global is the same with another array there."""
    x = jnp.ones(2)
    for factor in (1.0, 2.0):
        monkeypatch.setitem(globals(), "BATCH", np.full(2, factor, np.float32))
        assert run(product_with_global, x) == 2 * factor
        assert run(lambda x: 2 * product_with_global(x), x) == 4 * factor
    assert run.traces == 2


def test_other_numbers_and_other_code_are_other_functions(run):
    x = jnp.ones(2)
    scaled = lambda scale: lambda x: scale * jnp.sum(x)
    assert [run(scaled(s), x) for s in (1, 2, 1.0, -0.0)] == [2, 4, 2, 0]
    assert run(scaled(1), x).dtype == jnp.float32
    assert run.traces == 4
    assert run(lambda x: jnp.sum(x) + 1, x) == 3
    assert run.traces == 5


def test_what_may_change_unseen_is_not_cached(run):
    x, holder = jnp.ones(2), Holder(1.0)
    assert run((lambda: lambda x: jnp.sum(x) * holder.batch)(), x) == 2
    holder.batch = 3.0
    assert run((lambda: lambda x: jnp.sum(x) * holder.batch)(), x) == 6
    settings = {"scale": 1.0}
    assert run(lambda x: jnp.sum(x) * settings["scale"], x) == 2
    settings["scale"] = 3.0
    assert run(lambda x: jnp.sum(x) * settings["scale"], x) == 6


def test_recursion(run):
    assert run(recursive, jnp.ones(2)) == 8


def test_counting(run):
    """What a function assigns outside of itself is assigned."""
    calls = 0

    def counted(x, batch):
        nonlocal calls
        calls += 1
        return product(x, batch)

    for factor in (1.0, 2.0):
        batch = np.full(2, factor, np.float32)
        assert run(lambda x: counted(x, batch), jnp.ones(2)) == 2 * factor
    assert calls == 1


def test_arrays_are_not_kept_alive():
    """By what is static, and so stays in the cache of compiled programs."""
    batch = jnp.ones(2)
    captured = as_pytree(lambda x: product(x, batch))
    static = jax.tree.leaves(eqx.filter(captured, eqx.is_array, inverse=True))
    assert not any(batch is getattr(x, "value", None) for x in static)
    assert any(x is batch for x in jax.tree.leaves(captured))


def test_unused_functions_are_dropped():
    """An optimizer that does not call `value_fn` is not compiled for it."""
    compilations = []

    class Recorded(eqxopt.AbstractOptimizer):
        def start(self, parameters):
            return begun(self, parameters)

        def advance(self, step):
            compilations.append(step.value_fn is not None)
            return [-grad for grad in step.grads], self

        def evaluate(self, parameters):
            return parameters.arrays

    x = jnp.ones(2)
    opt = eqxopt.EMA(Recorded(), 0.9).init(x)
    for step in range(3):
        holder = Holder(step)
        opt.apply(x, x, value_fn=lambda x: jnp.sum(x) * holder.batch)
    assert compilations == [True]


def test_an_undeclared_use_is_named():
    class Undeclared(eqxopt.AbstractOptimizer):
        def start(self, parameters):
            return begun(self, parameters)

        def advance(self, step):
            step.value_fn(step.parameters.model(step.parameters.arrays))
            return step.grads, self

        def evaluate(self, parameters):
            return parameters.arrays

    x = jnp.ones(2)
    with pytest.raises(TypeError, match="`uses_value_fn = True`"):
        Undeclared().init(x).apply(x, x, value_fn=jnp.sum)


@dataclasses.dataclass
class Settings:
    scale: float = 1.0
    table: np.ndarray = dataclasses.field(default_factory=lambda: np.ones(2))


class Shadowed:
    scale = 1.0

    def loss(self, x):
        return self.scale * jnp.sum(x)

    @property
    def doubled(self):
        return 2 * self.scale


class CallableObject(Shadowed):
    def __call__(self, x):
        return self.loss(x)


def settings(make):
    """A loss that reads an object's `scale`, and the object."""
    held = make()
    return (lambda x: held.scale * jnp.sum(x)), held


def jaxtyped_loss():
    held = Settings()

    @jaxtyped(typechecker=beartype)
    def loss(x: Float[Array, " n"]) -> Float[Array, ""]:
        return held.scale * jnp.sum(x)

    return loss, held


def through_property():
    held = Shadowed()
    return (lambda x: held.doubled / 2 * jnp.sum(x)), held


def checkpointed():
    loss, held = settings(Settings)
    return eqx.filter_checkpoint(loss), held


def by_pattern():
    held = Settings()

    def loss(x):
        match held:
            case Settings(scale=scale):
                return scale * jnp.sum(x)

    return loss, held


def by_position():
    held = Settings()

    def loss(x):
        match held:
            case Settings(scale, _):
                return scale * jnp.sum(x)

    return loss, held


def by_equality():
    held, usual = Plain(1.0), Plain(1.0)
    return (lambda x: jnp.sum(x) * (1.0 if held == usual else 3.0)), held


def read_whole(read):
    held = Settings()
    return (lambda x: read(held) * jnp.sum(x)), held


@dataclasses.dataclass
class Plain:
    scale: float


class Child(Shadowed):
    def loss(self, x):
        return super().doubled / (2 * self.scale) * super().loss(x)


OBJECTS = {
    "keyword of a pattern": by_pattern,
    "place in a pattern": by_position,
    "equality": by_equality,
    "as a dictionary": lambda: read_whole(lambda x: dataclasses.asdict(x)["scale"]),
    "as a tuple": lambda: read_whole(lambda x: dataclasses.astuple(x)[0]),
    "by a getter": lambda: read_whole(lambda x: operator.attrgetter("scale")(x)),
    "own dictionary": lambda: read_whole(lambda x: x.__dict__["scale"]),
    "class above": lambda: (lambda held: (held.loss, held))(Child()),
    "dataclass": lambda: settings(Settings),
    "namespace": lambda: settings(lambda: argparse.Namespace(scale=1.0)),
    "simple namespace": lambda: settings(lambda: types.SimpleNamespace(scale=1.0)),
    "class attribute": lambda: settings(Shadowed),
    "bound method": lambda: (lambda held: (held.loss, held))(Shadowed()),
    "callable object": lambda: (lambda held: (held, held))(CallableObject()),
    "property": through_property,
    "type-checked function": jaxtyped_loss,
    "checkpointed function": checkpointed,
}


@pytest.mark.parametrize("name", OBJECTS)
def test_objects(name, run):
    """Compiled once for what their attributes are, and anew where these change."""
    loss, held = OBJECTS[name]()
    x = jnp.ones(2)
    reader = Reader(loss)
    assert isinstance(reader.now(), Closure)
    for scale in (1.0, 1.0, 3.0, 3.0):
        if scale != held.scale:
            held.scale = scale
        assert run(loss, x) == 2 * scale
        assert eqx.filter_jit(lambda f, x: f(x))(reader.now(), x) == 2 * scale
    assert run.traces == 2


def test_arrays_in_attributes(run):
    """They are arguments, so another array, or this one changed in place, compiles
    nothing."""
    held = Settings()
    loss = lambda x: jnp.sum(held.table * x) * held.scale
    reader = Reader(loss)
    for value in (1.0, 1.0, 4.0):
        held.table[:] = value
        assert run(loss, jnp.ones(2)) == 2 * value
        assert run(reader.now(), jnp.ones(2)) == 2 * value
    held.table = jnp.zeros(2)
    assert run(loss, jnp.ones(2)) == 0
    assert run.traces == 1
    held.scale = 2.0
    held.table = jnp.ones(2)
    assert run(loss, jnp.ones(2)) == 4


def test_objects_that_a_loss_sets_attributes_of():
    held = Settings()

    def loss(x):
        held.calls = 1
        return jnp.sum(held.table * x)

    assert not isinstance(Reader(loss).now(), Closure)


def test_what_cannot_be_looked_into():
    held = Settings()
    for loss in (
        lambda x: getattr(held, "scale") * x,
        lambda x: Undefined.anything * x,
        lambda x: vars(held)["scale"] * x,
        lambda x: float(os.environ["HOME"] > "") * x,
        lambda x: float(os.getenv("HOME") > "") * x,
        lambda x: sys.modules[__name__].BATCH * x,
        lambda x: importlib.import_module(__name__).BATCH * x,
        lambda x: environ["HOME"] and x,
    ):
        assert not isinstance(Reader(loss).now(), Closure)


class Made:
    def __getattr__(self, name):
        return 1.0


Undefined = Made()


def test_a_reader_looks_again_only_after_a_change(monkeypatch):
    batch = jnp.ones(2)
    settings = {"scale": [1.0]}
    reader = Reader(lambda x: jnp.sum(x * batch * BATCH) * settings["scale"][0])
    first = reader.now()
    assert reader.now() is first
    settings["scale"][0] = 2.0
    second = reader.now()
    assert second is not first and second(batch) == 4
    batch = 2 * batch
    assert reader.now()(jnp.ones(2)) == 8
    monkeypatch.setitem(globals(), "BATCH", np.zeros(2))
    assert reader.now()(jnp.ones(2)) == 0


def appended(log):
    return lambda x: jax.debug.callback(log.append, jnp.sum(x)) or jnp.sum(x)


def by_a_lambda(log):
    def function(x):
        jax.debug.callback(lambda value: log.append(value), jnp.sum(x))
        return jnp.sum(x)

    return function


def by_a_function(log):
    def note(log, value):
        log += [None]
        log[len(log) - 1] = value

    return lambda x: jax.debug.callback(lambda v: note(log, v), x[0]) or jnp.sum(x)


def by_an_object(log):
    holder = Holder(log)

    def function(x):
        jax.debug.callback(lambda value: holder.batch.append(value), jnp.sum(x))
        return jnp.sum(x)

    return function


@pytest.mark.parametrize("make", [appended, by_a_lambda, by_a_function, by_an_object])
def test_a_list_that_is_filled(make, run):
    """It is that very list, and not an equal one or a copy, also with arrays in it."""
    x = jnp.ones(2)
    first, second = [], []
    for log, expected in ((first, 1), (second, 1), (first, 2), (first, 3)):
        run(make(log), x)
        jax.effects_barrier()
        assert len(log) == expected


def test_a_dictionary_that_is_filled(run):
    def make(log):
        def function(x):
            jax.debug.callback(lambda v: log.update({len(log): v}), jnp.sum(x))
            return jnp.sum(x)

        return function

    for log in ({}, {}):
        for expected in (1, 2):
            run(make(log), jnp.ones(2))
            jax.effects_barrier()
            assert len(log) == expected


def test_lists_that_are_read(run):
    """They are compared by value, also beside lists that the function makes."""
    x = jnp.ones(2)

    def make(sizes, arrays):
        def function(x):
            parts, named = [], {}
            for size, array in zip(sizes, arrays):
                parts.append(size * jnp.sum(array * x))
                named[size] = parts[-1]
            return sum(named.values())

        return function

    for factor in (1.0, 2.0):
        function = make([1, 2], [np.full(2, factor), np.full(2, 3.0)])
        np.testing.assert_allclose(run(function, x), function(x))
    assert run.traces == 1
