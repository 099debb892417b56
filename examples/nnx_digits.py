"""Trains a flax NNX network on handwritten digits, by `nnx.Optimizer` and by `fit`.

The network has batch normalization and dropout. Both ways lower the learning rate after
half of the epochs, and average the weights. Prints the accuracy on held-out digits of
both weights, and of a network that is restored from a file.

    python examples/nnx_digits.py --epochs 20
"""

import argparse
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import eqxopt


matplotlib.use("Agg")
import matplotlib.pyplot as plt


# --8<-- [start:network]
class Network(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.first = nnx.Linear(64, 128, rngs=rngs)
        self.norm = nnx.BatchNorm(128, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.last = nnx.Linear(128, 10, rngs=rngs)

    def __call__(self, x: Float[Array, "batch 64"]) -> Float[Array, "batch 10"]:
        x = nnx.relu(self.norm(self.first(x)))
        return self.last(self.dropout(x))


def loss_fn(
    network: Network, x: Float[Array, "batch 64"], y: Int[Array, " batch"]
) -> Float[Array, ""]:
    log_probs = jax.nn.log_softmax(network(x))
    return -jnp.mean(jnp.take_along_axis(log_probs, y[:, None], axis=1))


@nnx.jit
def accuracy(network, x, y):
    return jnp.mean(jnp.argmax(network(x), axis=1) == y)


# --8<-- [end:network]


class Data(NamedTuple):
    x: np.ndarray
    y: np.ndarray
    held_out_x: np.ndarray
    held_out_y: np.ndarray


class Run(NamedTuple):
    """Accuracies after each epoch, of the weights that are trained and of their
    average, and the state at the end."""

    trained: list[float]
    averaged: list[float]
    state: Any


def read() -> Data:
    images, labels = load_digits(return_X_y=True)
    images, labels = images.astype(np.float32) / 16, labels.astype(np.int32)
    parts = train_test_split(images, labels, test_size=0.2, random_state=0)
    return Data(parts[0], parts[2], parts[1], parts[3])


def recipe(args: argparse.Namespace) -> eqxopt.AbstractOptimizer:
    return eqxopt.EMA(eqxopt.AdamW(args.learning_rate), decay=0.98)


def evaluated(network: Network, params: nnx.State) -> Network:
    """The network as it is evaluated, with other parameters."""
    copy = nnx.clone(network)
    nnx.update(copy, params)
    copy.eval()
    return copy


def by_nnx(data: Data, args: argparse.Namespace) -> Run:
    network = Network(nnx.Rngs(args.seed))
    tx = eqxopt.interop.to_optax(recipe(args))
    optimizer = nnx.Optimizer(network, tx, wrt=nnx.Param)

    @nnx.jit
    def train_step(network, optimizer, x, y):
        loss, grads = nnx.value_and_grad(loss_fn)(network, x, y)
        optimizer.update(network, grads)
        return loss

    random = np.random.default_rng(args.seed)
    trained, averaged = [], []
    for epoch in range(args.epochs):
        if epoch == args.epochs // 2:
            adamw = optimizer.opt_state.optimizer
            adamw.learning_rate[...] = args.learning_rate / 10
        order = random.permutation(len(data.x))
        for start in range(0, len(order) - args.batch_size + 1, args.batch_size):
            rows = order[start : start + args.batch_size]
            train_step(network, optimizer, data.x[rows], data.y[rows])
        params = nnx.as_pure(nnx.state(network, nnx.Param))
        means = nnx.as_pure(optimizer.opt_state).eval_params(params)
        for scores, weights in ((trained, params), (averaged, means)):
            shown = evaluated(network, weights)
            scores.append(float(accuracy(shown, data.held_out_x, data.held_out_y)))
    return Run(trained, averaged, nnx.state((network, optimizer)))


def split(seed: int) -> tuple[nnx.GraphDef, nnx.State, nnx.State]:
    """A new network without its variables: its graph, its parameters, the rest."""
    graph, params, rest = nnx.split(Network(nnx.Rngs(seed)), nnx.Param, ...)
    return graph, nnx.as_pure(params), nnx.as_pure(rest)


def by_fit(data: Data, args: argparse.Namespace) -> Run:
    graph, params, rest = split(args.seed)
    opt = recipe(args).init(params)

    def loss_of_state(params, rest, x, y):
        network = nnx.merge(graph, params, rest)
        loss = loss_fn(network, x, y)
        return loss, nnx.as_pure(nnx.state(network, nnx.Not(nnx.Param)))

    trained, averaged = [], []

    def callback(params, opt, rest, history):
        means = opt.eval_params(params)
        for scores, weights in ((trained, params), (averaged, means)):
            shown = nnx.merge(graph, weights, rest)
            shown.eval()
            scores.append(float(accuracy(shown, data.held_out_x, data.held_out_y)))

    steps = len(data.x) // args.batch_size
    halves = args.epochs // 2, args.epochs - args.epochs // 2
    for epochs, rate in zip(halves, (args.learning_rate, args.learning_rate / 10)):
        params, opt, rest, _ = eqxopt.fit(
            loss_of_state,
            params,
            opt.replace(learning_rate=rate),
            (data.x, data.y),
            state=rest,
            batch_size=args.batch_size,
            key=jax.random.key(args.seed),
            steps=epochs * steps,
            steps_per_call=steps,
            callback=callback,
        )
    return Run(trained, averaged, (params, rest, opt))


def restored(path: pathlib.Path, data: Data, args: argparse.Namespace) -> float:
    """The accuracy of the average in a file, in a network that is made anew."""
    graph, params, rest = split(args.seed + 1)
    opt = recipe(args).init(params)
    params, rest, opt = eqxopt.load(path, (params, rest, opt))
    network = nnx.merge(graph, opt.eval_params(params), rest)
    network.eval()
    return float(accuracy(network, data.held_out_x, data.held_out_y))


def draw(runs: dict[str, Run], output: pathlib.Path) -> None:
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for i, (name, run) in enumerate(runs.items()):
        for scores, line, kind in (
            (run.trained, ":", "trained"),
            (run.averaged, "-", "averaged"),
        ):
            epochs = np.arange(1, len(scores) + 1)
            label = f"{name}, {kind}"
            axes.plot(epochs, np.array(scores) * 100, line, color=f"C{i}", label=label)
    axes.set(xlabel="epoch", ylabel="accuracy in %", title="Digits held out")
    axes.set_ylim(max(axes.get_ylim()[0], 90))
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(output, dpi=150)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> dict[str, Run]:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1e-2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", type=pathlib.Path, default="nnx_digits.npz")
    parser.add_argument("--output", type=pathlib.Path, default="nnx_digits.png")
    args = parser.parse_args(arguments)
    if args.epochs < 2:
        parser.error("--epochs must be at least 2")

    data = read()
    runs = {"nnx.Optimizer": by_nnx(data, args), "eqxopt.fit": by_fit(data, args)}
    eqxopt.save(args.checkpoint, runs["eqxopt.fit"].state)
    draw(runs, args.output)
    table = Table(title=f"Handwritten digits, {args.epochs} epochs")
    table.add_column("by")
    for column in ("trained weights", "averaged weights"):
        table.add_column(column, justify="right")
    for name, run in runs.items():
        table.add_row(name, f"{run.trained[-1]:.1%}", f"{run.averaged[-1]:.1%}")
    console = Console()
    console.print(table)
    score = restored(args.checkpoint, data, args)
    console.print(f"restored from {args.checkpoint}: {score:.1%}")
    console.print(f"accuracies: {args.output}")
    return runs


if __name__ == "__main__":
    main()
