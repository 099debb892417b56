"""Learns a schedule of AdamW's learning rate, and its weight decay, by the gradient of
the loss that training runs on handwritten digits end with.

Compares it with constant rates on held-out digits, and draws what it has learned.

    python examples/learning_rate.py
"""

import argparse
import pathlib

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from jaxtyping import Array, Float
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import eqxopt


matplotlib.use("Agg")
import matplotlib.pyplot as plt


KNOTS = 6  # rates of the schedule, from the first step to the last
Numbers = dict[str, Float[Array, "..."]]


def constant(rate: float) -> Numbers:
    return {"log_rates": jnp.full(KNOTS, jnp.log(rate)), "log_decay": jnp.log(1e-2)}


def schedule(numbers: Numbers, steps: int) -> eqxopt.schedules.PiecewiseInterpolate:
    first, *others = jnp.exp(numbers["log_rates"])
    places = np.linspace(0, steps, KNOTS)[1:]
    return eqxopt.schedules.PiecewiseInterpolate("linear", first, places, others)


def score(model: eqx.nn.MLP, images, labels) -> Float[Array, "2"]:
    """Loss and accuracy."""
    log_probs = jax.nn.log_softmax(jax.vmap(model)(images))
    loss = -jnp.mean(jnp.take_along_axis(log_probs, labels[:, None], axis=1))
    return jnp.stack([loss, jnp.mean(jnp.argmax(log_probs, axis=1) == labels)])


def final_score(numbers: Numbers, seed, train, held_out, steps: int):
    """A whole run, from new weights to a score on rows that it has not seen."""
    model_key, batch_key = jax.random.split(jax.random.key(seed))
    model = eqx.nn.MLP(64, 10, width_size=32, depth=1, key=model_key)
    decay = jnp.exp(numbers["log_decay"])
    opt = eqxopt.AdamW(schedule(numbers, steps), weight_decay=decay).init(model)
    arrays, rest = eqx.partition(model, eqx.is_array)

    @jax.checkpoint  # a step's activations are computed again, not kept
    def step(carry, rows):
        loss = lambda model: score(model, *(x[rows] for x in train))[0]
        model = eqx.combine(carry[0], rest)
        model, opt = carry[1].apply(eqx.filter_grad(loss)(model), model)
        return (eqx.filter(model, eqx.is_array), opt), None

    batches = jax.random.randint(batch_key, (steps, 64), 0, len(train[0]))
    (arrays, _), _ = jax.lax.scan(step, (arrays, opt), batches)
    return score(eqx.combine(arrays, rest), *held_out)


def draw(history: list[Numbers], losses: list[float], steps: int, output) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for i in np.linspace(0, len(losses), 6).astype(int):
        rates = jax.vmap(schedule(history[i], steps))(jnp.arange(steps))
        color = plt.get_cmap("viridis")(i / len(losses))
        left.semilogy(rates, color=color, label=f"{i} outer steps")
    mean = [np.exp(np.mean(x["log_rates"])) for x in history]
    right.semilogy(losses, label="validation loss")
    right.semilogy(mean, label="learning rate, geometric mean")
    right.semilogy([np.exp(x["log_decay"]) for x in history], label="weight decay")
    left.set(xlabel="step", ylabel="learning rate")
    right.set(xlabel="outer step")
    for axes in (left, right):
        axes.legend()
        axes.grid(alpha=0.3)
    figure.savefig(output, dpi=150)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--outer-steps", type=int, default=60)
    parser.add_argument("--steps", type=int, default=200, help="of each training run")
    parser.add_argument("--start", type=float, default=1e-4, help="the first rate")
    parser.add_argument("--output", type=pathlib.Path, default="learning_rate.png")
    args = parser.parse_args(arguments)
    images, labels = load_digits(return_X_y=True)
    images, labels = images.astype(np.float32) / 16, labels.astype(np.int32)
    train_x, x, train_y, y = map(
        jnp.asarray, train_test_split(images, labels, test_size=0.4, random_state=0)
    )
    train, validation, test = (train_x, train_y), (x[::2], y[::2]), (x[1::2], y[1::2])

    def outer_loss(numbers: Numbers, seed) -> Float[Array, ""]:
        return final_score(numbers, seed, train, validation, args.steps)[0]

    numbers, losses = constant(args.start), []
    history = [numbers]
    outer = eqxopt.Adam(0.2, b1=0.5)
    outer = eqxopt.Chain(eqxopt.ClipByGlobalNorm(1.0), outer).init(numbers)
    value_and_grad = jax.jit(jax.value_and_grad(outer_loss))
    steps = range(args.outer_steps)
    for seed in track(steps, "outer steps", console=Console(stderr=True)):
        # Other weights and batches in each step, so as not to learn for one seed.
        loss, grads = value_and_grad(numbers, seed)
        numbers, outer = outer.apply(grads, numbers)
        losses.append(float(loss))
        history.append(numbers)
    draw(history, losses, args.steps, args.output)

    # The rival: the best of as many constant rates as there were outer steps.
    grid = jax.vmap(constant)(jnp.geomspace(1e-4, 0.1, args.outer_steps))
    scores = jax.jit(jax.vmap(outer_loss, (0, None)))(grid, args.outer_steps)
    best = jax.tree.map(lambda x: x[jnp.nanargmin(scores)], grid)
    points = {"start": constant(args.start), "best constant": best, "learned": numbers}

    on_test = lambda x, seed: final_score(x, seed, train, test, args.steps)
    on_test = jax.jit(jax.vmap(on_test, (None, 0)))
    table = Table(title=f"{len(test[0])} held-out digits, means of 10 seeds")
    for column in ("AdamW", "first rate", "highest", "last", "loss", "accuracy"):
        table.add_column(column, justify="left" if column == "AdamW" else "right")
    accuracies = {}
    for name, point in points.items():
        rates = np.exp(point["log_rates"])
        cells = [f"{x:.2g}" for x in (rates[0], np.max(rates), rates[-1])]
        loss, accuracy = np.mean(on_test(point, 10_000 + jnp.arange(10)), axis=0)
        table.add_row(name, *cells, f"{loss:.3f}", f"{accuracy:.1%}")
        accuracies[name] = float(accuracy)
    console = Console()
    console.print(table)
    console.print(f"schedules and losses: {args.output}")
    return accuracies


if __name__ == "__main__":
    main()
