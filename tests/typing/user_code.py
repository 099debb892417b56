"""What the type checker makes of a user's training code. Checked, never run."""

from collections.abc import Callable
from typing import assert_type

import equinox as eqx
import jax
from jaxtyping import Array, Float

import eqxopt
from eqxopt import rules


class Net(eqx.Module):
    layer: eqx.nn.Linear

    def __call__(self, x: Float[Array, " in"]) -> Float[Array, " out"]:
        return self.layer(x)


def loss_fn(model: Net, x: Float[Array, "batch in"]) -> Float[Array, ""]:
    return jax.numpy.mean(jax.vmap(model)(x))


def train(model: Net, x: Float[Array, "batch in"]) -> Net:
    opt = eqxopt.AdamW(3e-4, weight_decay=0.1).init(model)
    assert_type(opt, eqxopt.AdamW)
    grads = eqx.filter_grad(loss_fn)(model, x)
    model, opt = opt.apply(grads, model)
    assert_type(model, Net)
    assert_type(opt, eqxopt.AdamW)
    assert_type(opt.replace(learning_rate=1e-4), eqxopt.AdamW)
    assert_type(opt.eval_params(model), Net)
    return model


def wrappers(net: Net) -> None:
    opt = eqxopt.Accumulate(eqxopt.EMA(eqxopt.AdamW(3e-4), 0.99), every=4).init(net)
    assert_type(opt, eqxopt.Accumulate)
    net, opt = opt.weighted(3).apply(net, net)
    assert_type(net, Net)
    assert_type(opt.eval_params(net), Net)
    assert_type(opt.micro_steps, Array)


def dictionaries(params: dict[str, Array], opt: eqxopt.AbstractOptimizer) -> None:
    params, opt = opt.apply(params, params, value=0.0)
    assert_type(params, dict[str, Array])
    assert_type(opt, eqxopt.AbstractOptimizer)


def hyperparameters(path_to_rate: Callable[[str, Array], float], net: Net) -> None:
    """Everything that a hyperparameter may be."""
    eqxopt.SGD(1)
    eqxopt.SGD(0.1, momentum=None)
    eqxopt.SGD(jax.numpy.asarray(0.1), momentum=0.9)
    eqxopt.SGD(eqxopt.schedules.Constant(0.1))
    eqxopt.SGD(lambda step: 0.1 / (step + 1))
    eqxopt.SGD(path_to_rate)
    eqxopt.SGD({"a": 0.1, "b": eqxopt.schedules.Constant(0.1)})
    warmup = eqxopt.schedules.Linear(0, 1, 100)
    eqxopt.SGD(0.1 * warmup - (lambda step: 0.1 / (step + 1)) + 1)
    eqxopt.SGD(eqxopt.schedules.Join((warmup, 0.1), [100]))
    eqxopt.SGD(eqxopt.schedules.PiecewiseConstant(1, (10, 20), jax.numpy.ones(2)))
    eqxopt.AdamW(0.1, mask={"a": True, "b": False})
    eqxopt.AdamW(0.1, mask=lambda path, array: array.ndim > 1)


def mistakes() -> None:
    """Each ignored error is one that the checker must see."""
    eqxopt.AdamW()  # pyright: ignore[reportCallIssue]
    eqxopt.AdamW("oops")  # pyright: ignore[reportArgumentType]
    eqxopt.AdamW(0.1, weight_decay=None)  # pyright: ignore[reportArgumentType]
    eqxopt.AdamW(0.1, beta1=0.9)  # pyright: ignore[reportCallIssue]
    eqxopt.AdamW(0.1, nesterov="yes")  # pyright: ignore[reportArgumentType]
    eqxopt.EMA(0.99, 0.99)  # pyright: ignore[reportArgumentType]
    eqxopt.Muon(0.1, newton_schulz="fast")  # pyright: ignore[reportArgumentType]
    eqxopt.schedules.Linear()  # pyright: ignore[reportCallIssue]
    eqxopt.schedules.Linear("x", 1, 2)  # pyright: ignore[reportArgumentType]
    Descent()  # pyright: ignore[reportCallIssue]
    Descent("oops")  # pyright: ignore[reportArgumentType]


class Descent(eqxopt.AbstractLeafwiseOptimizer):
    """An optimizer of the user's own."""

    learning_rate: rules.Hyperparameter = rules.hyperparameter("[0, inf)")
    clip: rules.OptionalHyperparameter = rules.hyperparameter("(0, inf)", default=None)
    mask: rules.OptionalMask = rules.mask_of("learning_rate", default=None)
    nesterov: bool = eqx.field(default=False, static=True)

    def init_leaf(self, param: rules.Leaf) -> rules.Momentum:
        return rules.Momentum(rules.zeros_like(param))

    def update_leaf(
        self,
        t: rules.Scalar,
        grad: rules.Leaf,
        param: rules.Leaf,
        state: rules.Momentum,
    ) -> tuple[rules.Leaf, rules.Momentum]:
        assert_type(self.learning_rate, Array)
        assert_type(self.clip, Array | None)
        mu = rules.ema(state.mu, grad, rules.sqrt(t))
        return -self.learning_rate * mu, rules.Momentum(mu)


def own(net: Net) -> None:
    opt = Descent(lambda step: 0.1, clip=1.0, mask=lambda path, array: True).init(net)
    assert_type(opt, Descent)
    net, opt = opt.apply(net, net)
    assert_type(net, Net)


def training(net: Net, state: eqx.nn.State, x: Array) -> None:
    def loss_fn(*given: object, **named: object) -> Array:
        return x

    opt = eqxopt.AdamW(0.1).init(net)
    step = eqxopt.make_step(loss_fn)
    assert_type(step(net, opt, x), tuple[Net, eqxopt.AdamW, Array])
    assert_type(
        step(net, opt, x, state=state),
        tuple[Net, eqxopt.AdamW, eqx.nn.State, Array],
    )
    net, opt, _, aux = eqxopt.make_step(loss_fn, has_aux=True)(net, opt, x, key=x)
    net, opt, history = eqxopt.fit(loss_fn, net, opt, [x])
    assert_type(opt, eqxopt.AdamW)
    assert_type(history, eqxopt.History)
    net, opt, state, history = eqxopt.fit(loss_fn, net, opt, [x], state=state)
    assert_type(state, eqx.nn.State)
    assert_type(eqxopt.load("run.npz", (net, opt)), tuple[Net, eqxopt.AdamW])
