"""Fits a neural ODE to hares and lynxes, first for a short time, then for all of it.

The data are solutions of the equations of Lotka and Volterra. Prints the error on
solutions held out from training, beside that of a run with all of the time from its
start, and draws the data, the fit and the errors.

    python examples/neural_ode.py --first 3 --steps 900
"""

import argparse
import pathlib
from typing import NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray
from rich.console import Console
from rich.table import Table

import eqxopt


matplotlib.use("Agg")
import matplotlib.pyplot as plt


SPECIES = ["hares", "lynxes"]
TIMES = jnp.linspace(0.0, 30.0, 101)

console = Console()


# --8<-- [start:model]
class NeuralODE(eqx.Module):
    """Solves dy/dt = network(y)."""

    network: eqx.nn.MLP

    def __init__(self, key: PRNGKeyArray):
        self.network = eqx.nn.MLP(2, 2, 32, 2, activation=jnp.tanh, key=key)

    def __call__(
        self, times: Float[Array, " times"], start: Float[Array, "2"]
    ) -> Float[Array, "times 2"]:
        return solve(lambda t, y, args: self.network(y), times, start)


def solve(field, times, start):
    return diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        diffrax.Tsit5(),
        t0=times[0],
        t1=times[-1],
        dt0=TIMES[1] - TIMES[0],
        y0=start,
        saveat=diffrax.SaveAt(ts=times),
    ).ys


# --8<-- [end:model]


# --8<-- [start:data]
def lotka_volterra(t, y, args):
    hares, lynxes = y
    return jnp.stack([hares * (1 - lynxes), lynxes * (hares - 1)])


def trajectories(number: int, key: PRNGKeyArray) -> Float[Array, "number times 2"]:
    starts = jax.random.uniform(key, (number, 2), minval=0.5, maxval=2.0)
    return jax.vmap(lambda start: solve(lotka_volterra, TIMES, start))(starts)


# --8<-- [end:data]


# --8<-- [start:loss]
def loss_fn(
    model: NeuralODE,
    measured: Float[Array, "batch times 2"],
    *,
    until: Float[ArrayLike, ""],
) -> Float[Array, ""]:
    """What is later than `until` is not solved for, and does not count."""
    times = jnp.minimum(TIMES, until)
    predicted = jax.vmap(model, in_axes=(None, 0))(times, measured[:, 0])
    counts = (TIMES <= until)[:, None]
    return jnp.mean(jnp.square(predicted - measured), where=counts)


# --8<-- [end:loss]


train_step = eqxopt.make_step(loss_fn)
evaluate = eqx.filter_jit(loss_fn)
solution = eqx.filter_jit(lambda model, start: model(TIMES, start))


class Run(NamedTuple):
    """What a run ended with, and the errors on its way."""

    model: NeuralODE
    steps: list[int]
    errors: list[float]


def train(horizons: np.ndarray, data, held_out, args: argparse.Namespace) -> Run:
    """A step for each of the `horizons`."""
    end = float(TIMES[-1])
    rate = eqxopt.schedules.CosineDecay(args.learning_rate, len(horizons))
    model = NeuralODE(jax.random.key(args.seed))
    opt = eqxopt.Chain(eqxopt.ClipByGlobalNorm(1.0), eqxopt.Adam(rate)).init(model)
    steps, errors = [0], [float(evaluate(model, held_out, until=end))]
    for step, until in enumerate(horizons, start=1):
        model, opt, loss = train_step(model, opt, data, until=until)
        if step % max(1, len(horizons) // 20) == 0 or step == len(horizons):
            steps.append(step)
            errors.append(float(evaluate(model, held_out, until=end)))
            console.print(
                f"{step:5}  until {until:4.1f}  loss {loss:.1e}  "
                f"held out, over all of the time {errors[-1]:.1e}"
            )
    return Run(model, steps, errors)


def draw(runs: dict[str, Run], measured, output: pathlib.Path) -> None:
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    for i, species in enumerate(SPECIES):
        axes[0].plot(TIMES, measured[:, i], ".", color=f"C{i}", markersize=4)
    axes[1].plot(*measured.T, ".", color="grey", markersize=4, label="held out")
    for (name, run), line, color in zip(runs.items(), ("-", ":"), ("C2", "C3")):
        fitted = solution(run.model, measured[0])
        for i, species in enumerate(SPECIES):
            label = species if line == "-" else None
            axes[0].plot(TIMES, fitted[:, i], line, color=f"C{i}", label=label)
        axes[1].plot(*fitted.T, line, color=color, label=name)
        axes[2].semilogy(run.steps, run.errors, line, color=color, label=name)
    axes[0].set(xlabel="time", ylabel="number")
    axes[1].set(xlabel=SPECIES[0], ylabel=SPECIES[1])
    axes[2].set(xlabel="step", ylabel="error over all of the time")
    for part in axes:
        part.legend(fontsize="small")
        part.grid(alpha=0.3)
    figure.savefig(output, dpi=150)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> dict[str, Run]:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--first", type=float, default=3.0, help="where to begin")
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--trajectories", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1e-2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=pathlib.Path, default="neural_ode.png")
    args = parser.parse_args(arguments)
    end = np.float32(TIMES[-1])
    if args.steps < 1 or not 0 < args.first <= end:
        parser.error(f"--steps must be at least 1, and --first at most {end:g}")

    keys = jax.random.split(jax.random.key(args.seed), 2)
    data, held_out = trajectories(args.trajectories, keys[0]), trajectories(16, keys[1])
    # The horizon grows by the same factor in each step, and then stays.
    growing = np.geomspace(args.first, end, args.steps * 2 // 3, dtype=np.float32)
    horizons = {
        "growing": np.append(growing, np.full(args.steps - len(growing), end)),
        "all at once": np.full(args.steps, end),
    }
    runs = {}
    for name, untils in horizons.items():
        console.rule(name)
        runs[name] = train(untils, data, held_out, args)
    draw(runs, np.asarray(held_out[0]), args.output)
    table = Table(title=f"Hares and lynxes, {args.steps} steps")
    table.add_column("time")
    table.add_column("error held out", justify="right")
    for name, run in runs.items():
        table.add_row(name, f"{run.errors[-1]:.1e}")
    console.print(table)
    console.print(f"data, fit and errors: {args.output}")
    return runs


if __name__ == "__main__":
    main()
