"""Optimizers of a user's own: the examples of the docs, and what mistakes get."""

import ast
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from own_optimizers import MeanGradient, SoftClip, UniformAverage

import eqxopt
from eqxopt.rules import Hyperparameter, hyperparameter, Momentum, zeros_like


SOURCE = pathlib.Path(__file__).parents[1] / "examples" / "own_optimizers.py"


def test_examples_are_short_and_use_public_names():
    tree = ast.parse(SOURCE.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            assert node.end_lineno - node.lineno < 30
        if isinstance(node, ast.ImportFrom):
            assert not any(part.startswith("_") for part in node.module.split("."))
        if isinstance(node, ast.Attribute):
            assert not node.attr.startswith("_")


def test_mean_gradient(x64):
    x, opt = jnp.array([1.0, 2.0]), MeanGradient(0.1, 0.8, 0.5)
    opt = opt.init(x)
    theta, m = np.array([1.0, 2.0]), np.zeros(2)
    for t in range(1, 6):
        m = 0.8 * m + 0.2 * theta
        theta = theta - 0.1 * (m / (1 - 0.8**t) + 0.5 * theta)
        x, opt = opt.apply(x, x)
    np.testing.assert_allclose(x, theta, rtol=1e-12)


def test_uniform_average(x64):
    x, opt = jnp.array(1.0), UniformAverage(eqxopt.SGD(0.5))
    opt, seen = opt.init(x), []
    for _ in range(4):
        x, opt = opt.apply(x, x)
        seen.append(x)
    np.testing.assert_allclose(opt.eval_params(x), np.mean(seen), rtol=1e-12)


def test_soft_clip():
    clip = SoftClip(2.0).init(jnp.zeros(2))
    updates, _ = clip.update(jnp.array([1e6, -2.0]), jnp.zeros(2))
    np.testing.assert_allclose(updates, [2.0, -1.0], rtol=1e-5)


class Rule(eqxopt.AbstractLeafwiseOptimizer):
    """What the mistakes below have in common."""

    learning_rate: Hyperparameter = hyperparameter("[0, inf)")
    returned: str = eqxopt.rules.word("returned", "update", "longer", "other", "wide")

    def init_leaf(self, param):
        return Momentum(zeros_like(param))

    def update_leaf(self, t, grad, param, state):
        update = -self.learning_rate * grad
        return {
            "update": update,
            "longer": (update, Momentum(jnp.concatenate([state.mu, state.mu]))),
            "other": (update, (state.mu, state.mu)),
            "wide": (jnp.stack([update, update]), state),
        }[self.returned]


@pytest.mark.parametrize(
    "returned, message",
    [
        ("update", r"`Rule.update_leaf` must return the update and the next state"),
        ("longer", r"must keep the shapes of the state: .* \(2,\), and .* \(4,\)"),
        ("other", r"must return a state like that of `init_leaf`"),
        ("wide", r"an update of the parameter's shape, \(2,\), but it returned an"),
    ],
)
def test_a_rule_that_returns_something_else(returned, message):
    x = jnp.ones(2)
    opt = Rule(0.1, returned).init(x)
    with pytest.raises(TypeError, match=message):
        opt.apply(x, x)
    with pytest.raises(TypeError, match=message):
        jax.jit(lambda opt, x: opt.apply(x, x))(opt, x)


class WithoutState(eqxopt.AbstractLeafwiseOptimizer):
    def init_leaf(self, param):
        return None

    def update_leaf(self, t, grad, param, state):
        return -grad, state


def test_a_state_of_none():
    with pytest.raises(TypeError, match=r"`WithoutState.init_leaf` .* returns `\(\)`"):
        WithoutState().init(jnp.ones(2))


class PlainField(eqxopt.AbstractLeafwiseOptimizer):
    rate: float = 0.1

    def init_leaf(self, param):
        return ()

    def update_leaf(self, t, grad, param, state):
        return -self.rate * grad, state


def test_a_plain_number_says_what_to_write():
    message = r"`PlainField.rate` holds a plain float.* `= hyperparameter\("
    with pytest.raises(TypeError, match=message):
        PlainField()


class WrongWrapper(eqxopt.AbstractWrapper):
    optimizer: eqxopt.AbstractOptimizer = eqxopt.rules.inner()

    def init_leaf(self, param):
        return ()

    def wrap_leaf(self, t, grad, param, update, state):
        return update

    def eval_leaf(self, param, evaluated, state):
        return evaluated


def test_a_wrapper_that_returns_only_its_update():
    x = jnp.ones(3)
    opt = WrongWrapper(eqxopt.SGD(0.1)).init(x)
    with pytest.raises(TypeError, match="`WrongWrapper.wrap_leaf` must return the"):
        opt.apply(x, x)


def test_ranges_of_own_hyperparameters():
    with pytest.raises(ValueError, match=r"`MeanGradient\(beta=1.0\)`.*\[0, 1\)"):
        MeanGradient(0.1, beta=1.0)
