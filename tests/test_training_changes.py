"""What changed since the last step is seen: models, optimizers, and what a loss
function reads."""

import collections

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import pytest

import eqxopt


class Layers(eqx.Module):
    layers: list
    named: dict

    def __call__(self, x):
        return x * sum(self.layers) * self.named["a"]["b"]


@jtu.register_pytree_node_class
class Box:
    """A pytree class that can be changed."""

    def __init__(self, value):
        self.value = value

    def tree_flatten(self):
        return (self.value,), None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


class Holder(eqx.Module):
    held: object


def total(model):
    return jnp.sum(jnp.stack(jax.tree.leaves(eqx.filter(model, eqx.is_array))))


CHANGES = {
    "a list in a module": (
        lambda: Holder([jnp.ones(()), jnp.ones(())]),
        lambda model: model.held.__setitem__(1, jnp.asarray(5.0)),
    ),
    "a list in a list": (
        lambda: Holder([[jnp.ones(())], jnp.ones(())]),
        lambda model: model.held[0].__setitem__(0, jnp.asarray(5.0)),
    ),
    "a dictionary in a module": (
        lambda: Holder({"a": {"b": jnp.ones(())}, "c": jnp.ones(())}),
        lambda model: model.held["a"].update(b=jnp.asarray(5.0)),
    ),
    "an ordered dictionary": (
        lambda: Holder(collections.OrderedDict(a=jnp.ones(()), b=jnp.ones(()))),
        lambda model: model.held.update(a=jnp.asarray(5.0)),
    ),
    "a class of the user": (
        lambda: Holder((Box(jnp.ones(())), jnp.ones(()))),
        lambda model: setattr(model.held[0], "value", jnp.asarray(5.0)),
    ),
    "a class of the user as the model": (
        lambda: Box((jnp.ones(()), jnp.ones(()))),
        lambda model: setattr(model, "value", (jnp.asarray(5.0), jnp.ones(()))),
    ),
    "a dictionary as the model": (
        lambda: {"a": jnp.ones(()), "b": jnp.ones(())},
        lambda model: model.update(a=jnp.asarray(5.0)),
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changes_in_place(name):
    """As with `equinox.filter_jit`."""
    make, change = CHANGES[name]
    model = make()
    opt = eqxopt.SGD(0.0).init(model)
    step = eqxopt.make_step(total, donate=False)
    for expected in (2, 2):
        model, opt, loss = step(model, opt)
        assert loss == expected
    change(model)
    for expected in (6, 6):
        model, opt, loss = step(model, opt)
        assert loss == expected


def test_a_changed_structure():
    model = Holder([jnp.ones(())])
    opt = eqxopt.SGD(0.0).init(model)
    step = eqxopt.make_step(total, donate=False)
    model, opt, _ = step(model, opt)
    model.held.append(jnp.ones(()))
    _, _, loss = step(model, eqxopt.SGD(0.0).init(model))
    assert loss == 2


@pytest.mark.parametrize(
    "leaves", [(1, True, 1.0), (2.0, 2), (0.0, -0.0)], ids=["1", "2", "0"]
)
def test_equal_leaves_of_other_types(leaves):
    """Python's numbers in a model are static, and each has a program of its own."""
    loss = lambda model: jnp.sum(model["x"]) * LOSSES[repr(model["n"])]
    step = eqxopt.make_step(loss, donate=False)
    for n in leaves:
        model = {"x": jnp.ones(()), "n": n}
        opt = eqxopt.SGD(0.0).init(model)
        expected = LOSSES[repr(n)]
        new, _, value = step(model, opt)
        assert value == expected and repr(new["n"]) == repr(n)
        new, _, history = eqxopt.fit(loss, model, opt, steps=1)
        assert history.loss == expected and repr(new["n"]) == repr(n)
        new, _ = opt.apply({"x": jnp.ones(()), "n": None}, model)
        assert repr(new["n"]) == repr(n)


LOSSES = {"1": 1, "True": 2, "1.0": 3, "2.0": 4, "2": 5, "0.0": 6, "-0.0": 7}
GOAL = 1.0
SETTINGS = {"goal": 1.0}


class Task:
    def __init__(self, goal):
        self.goal = goal

    def loss(self, x):
        return (x - self.goal) ** 2


def from_global(x):
    return (x - GOAL) ** 2


def from_dictionary(x):
    return (x - SETTINGS["goal"]) ** 2


def set_global(goal):
    global GOAL
    GOAL = goal


class TestLossFunctions:
    """A loss function is evaluated with what it reads now."""

    def losses(self):
        task = Task(1.0)
        goal = 1.0

        def from_closure(x):
            return (x - goal) ** 2

        def set_closure(new):
            nonlocal goal
            goal = new

        array = np.ones(())
        return {
            "a global": (from_global, set_global),
            "a dictionary": (
                from_dictionary,
                lambda new: SETTINGS.__setitem__("goal", new),
            ),
            "an attribute": (
                lambda x: (x - task.goal) ** 2,
                lambda new: setattr(task, "goal", new),
            ),
            "a bound method": (task.loss, lambda new: setattr(task, "goal", new)),
            "a closure": (from_closure, set_closure),
            "an array": (
                lambda x: (x - array) ** 2,
                lambda new: array.__setitem__((), new),
            ),
        }

    @pytest.fixture(autouse=True)
    def restored(self):
        yield
        set_global(1.0)
        SETTINGS["goal"] = 1.0

    NAMES = (
        "a global",
        "a dictionary",
        "an attribute",
        "a bound method",
        "a closure",
        "an array",
    )

    @pytest.mark.parametrize("name", NAMES)
    def test_fit(self, name):
        loss, change = self.losses()[name]
        x = jnp.zeros(())
        for goal in (1.0, 5.0):
            change(goal)
            x, *_ = eqxopt.fit(loss, x, eqxopt.SGD(0.5).init(x), steps=1)
            assert x == goal

    @pytest.mark.parametrize("name", NAMES)
    def test_make_step(self, name):
        loss, change = self.losses()[name]
        step = eqxopt.make_step(loss)
        x = jnp.zeros(())
        opt = eqxopt.SGD(0.5).init(x)
        for goal in (1.0, 5.0, 2.0):
            change(goal)
            x, opt, _ = step(x, opt)
            assert x == goal

    @pytest.mark.parametrize("name", NAMES)
    def test_a_callback_that_changes_something(self, name):
        """Between two calls of the program inside one `fit`."""
        loss, change = self.losses()[name]
        change(1.0)
        callback = lambda x, opt, history: change(5.0)
        x = jnp.zeros(())
        x, *_ = eqxopt.fit(
            loss,
            x,
            eqxopt.SGD(0.5).init(x),
            steps=2,
            steps_per_call=1,
            callback=callback,
        )
        assert x == 5


SCALE = 1.0


class Scaled(eqx.Module):
    weight: jax.Array

    def __call__(self, x):
        return SCALE * self.weight * x


def test_a_global_that_the_models_methods_read(monkeypatch):
    model = Scaled(jnp.ones(()))
    opt = eqxopt.SGD(0.0).init(model)
    loss = lambda model, x: model(x)
    step = eqxopt.make_step(loss, donate=False)
    for scale in (1.0, 1.0, 3.0):
        monkeypatch.setitem(globals(), "SCALE", scale)
        assert step(model, opt, 2.0)[2] == 2 * scale
        *_, history = eqxopt.fit(loss, model, opt, [2.0])
        assert history.loss == 2 * scale


def test_what_cannot_be_looked_into():
    """Compiled anew, and said so where it costs most."""
    goals = Task(1.0)
    loss = lambda x: (x - getattr(goals, "goal")) ** 2
    x = jnp.zeros(())
    opt = eqxopt.SGD(0.5).init(x)
    x, opt, _ = eqxopt.fit(loss, x, opt, steps=1)
    assert x == 1
    goals.goal = 5.0
    x, opt, _ = eqxopt.fit(loss, x, opt, steps=1)
    assert x == 5
    step = eqxopt.make_step(loss)
    x, opt, _ = step(x, opt)
    goals.goal = 2.0
    with pytest.warns(UserWarning, match="`make_step` compiles anew again and again"):
        x, opt, _ = step(x, opt)
    assert x == 2
