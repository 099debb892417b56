"""Trains 128 networks at once, for 32 learning rates and 4 weight decays.

Prints the best pair and the time beside that of a Python loop over the same runs, and
draws a heat map of the accuracies.

    python examples/sweep.py
"""

import argparse
import pathlib
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import eqxopt


matplotlib.use("Agg")
import matplotlib.pyplot as plt


def digits():
    data = load_digits()
    parts = train_test_split(
        data.data.astype(np.float32) / 16,
        data.target.astype(np.int32),
        test_size=0.2,
        random_state=0,
        stratify=data.target,
    )
    return [jnp.asarray(x) for x in parts]


def trainer(steps: int, batch_size: int):
    """A function from a learning rate and a weight decay to the held-out accuracy."""
    train_x, test_x, train_y, test_y = digits()
    # The functions in a network are no arrays, so they stay out of what is carried.
    network = eqx.nn.MLP(64, 10, width_size=32, depth=1, key=jax.random.key(0))
    params, static = eqx.partition(network, eqx.is_inexact_array)

    def logits(params, images):
        return jax.vmap(eqx.combine(params, static))(images)

    def loss_fn(params, images, labels):
        log_probs = jax.nn.log_softmax(logits(params, images))
        return -jnp.mean(jnp.take_along_axis(log_probs, labels[:, None], axis=1))

    def accuracy(learning_rate, weight_decay):
        opt = eqxopt.AdamW(learning_rate, weight_decay=weight_decay).init(params)

        def step(carry, key):
            params, opt = carry
            rows = jax.random.randint(key, (batch_size,), 0, len(train_x))
            grads = jax.grad(loss_fn)(params, train_x[rows], train_y[rows])
            return opt.apply(grads, params), None

        keys = jax.random.split(jax.random.key(1), steps)
        (trained, _), _ = jax.lax.scan(step, (params, opt), keys)
        return jnp.mean(jnp.argmax(logits(trained, test_x), axis=1) == test_y)

    return accuracy


def timed(function, *args):
    start = time.perf_counter()
    result = jax.block_until_ready(function(*args))
    return result, time.perf_counter() - start


def draw(rates, decays, accuracies, output: pathlib.Path) -> None:
    # Readable on a light page and on a dark one.
    names = ("axes.edgecolor", "axes.labelcolor", "text.color", "xtick.color")
    plt.rcParams.update(dict.fromkeys((*names, "ytick.color"), "#808080"))
    figure, axes = plt.subplots(figsize=(10, 2.8), layout="constrained")
    image = axes.imshow(100 * accuracies.T, aspect="auto", cmap="viridis")
    ticks = np.arange(0, len(rates), 4)
    axes.set_xticks(ticks, [f"{rates[i]:.1e}" for i in ticks])
    axes.set_yticks(np.arange(len(decays)), [f"{x:g}" for x in decays])
    axes.set(xlabel="learning rate", ylabel="weight decay", title="held-out accuracy")
    figure.colorbar(image, label="%")
    figure.savefig(output, dpi=150, transparent=True)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rates", type=int, default=32, help="how many")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--output", type=pathlib.Path, default="sweep.png")
    args = parser.parse_args(arguments)
    rates = np.geomspace(1e-5, 1.0, args.rates).astype(np.float32)
    decays = np.array([0.0, 0.01, 0.1, 1.0], np.float32)
    accuracy = trainer(args.steps, args.batch_size)

    one = jax.jit(accuracy)
    everyone = jax.jit(jax.vmap(jax.vmap(accuracy, (None, 0)), (0, None)))
    _, compile_one = timed(one, rates[0], decays[0])
    _, compile_all = timed(everyone, rates, decays)
    together, all_seconds = timed(everyone, rates, decays)
    looped, loop_seconds = timed(
        lambda: [[one(rate, decay) for decay in decays] for rate in rates]
    )
    together = np.asarray(together)
    draw(rates, decays, together, args.output)

    best = np.unravel_index(np.argmax(together), together.shape)
    table = Table(title=f"{together.size} networks, {args.steps} steps each")
    for column in ("", "seconds", "with compiling", "best accuracy"):
        table.add_column(column, justify="right")
    for name, seconds, first, scores in (
        ("one program", all_seconds, compile_all, together),
        ("Python loop", loop_seconds, loop_seconds + compile_one, np.asarray(looped)),
    ):
        best_score = f"{np.max(scores):.1%}"
        table.add_row(name, f"{seconds:.1f}", f"{first:.1f}", best_score)
    console = Console()
    console.print(table)
    console.print(
        f"best: learning rate {rates[best[0]]:.2g}, weight decay {decays[best[1]]:g}"
    )
    console.print(f"heat map: {args.output}")
    return float(np.max(together))


if __name__ == "__main__":
    main()
