"""Solves Poisson's equation by a physics-informed network: Adam, then second order.

Prints the errors, and draws the solution, its error, and the error over time.

    python examples/poisson.py --optimizer GaussNewton
"""

import argparse
import pathlib
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from jaxtyping import Array, Float
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

import eqxopt


matplotlib.use("Agg")
import matplotlib.pyplot as plt


# The steps that come after Adam, and the options.
SECOND = {
    "GaussNewton": (50, {"damping": 1e-10, "linesearch": eqxopt.GridLineSearch()}),
    "LevenbergMarquardt": (50, {"damping": 1e-3}),
    "SSBroyden": (1000, {}),
    "BFGS": (1000, {}),
    "LBFGS": (1000, {}),
}

Point = Float[Array, "2"]


def source(point: Point) -> Float[Array, ""]:
    return 2 * jnp.pi**2 * solution(point)


def solution(point: Point) -> Float[Array, ""]:
    """It is known here, so that we know the error."""
    return jnp.prod(jnp.sin(jnp.pi * point))


def laplacian(u, point: Point) -> Float[Array, ""]:
    """Forward over forward, which costs as much as a few values of `u`."""

    def second(direction):
        first = lambda x: jax.jvp(u, (x,), (direction,))[1]
        return jax.jvp(first, (point,), (direction,))[1]

    return jnp.sum(jax.vmap(second)(jnp.eye(2)))


def residuals(
    model: eqx.nn.MLP, interior: Float[Array, "m 2"], boundary: Float[Array, "n 2"]
) -> dict[str, Array]:
    """How far $\\Delta u$ is from $-f$ inside, and $u$ from 0 on the boundary.

    The loss is half the sum of their squares: half the mean over the points inside, and
    half that over the points of the boundary.
    """
    # Each residual depends on one point alone, which is far less to differentiate.
    inside = eqxopt.rowwise(lambda u, x: laplacian(u, x) + source(x))(model, interior)
    outside = eqxopt.rowwise(lambda u, x: u(x))(model, boundary)
    return {
        "equation": inside / np.sqrt(len(interior)),
        "boundary": outside / np.sqrt(len(boundary)),
    }


def points(per_side: int) -> tuple[Float[Array, "m 2"], Float[Array, "n 2"]]:
    """A grid inside the unit square, and points on its four sides."""
    inside = np.linspace(0, 1, per_side + 2)[1:-1]
    ends = np.linspace(0, 1, per_side)
    interior = np.stack(np.meshgrid(inside, inside), axis=-1).reshape(-1, 2)
    sides = [(ends, 0 * ends), (ends, 0 * ends + 1), (0 * ends, ends)]
    sides.append((0 * ends + 1, ends))
    boundary = np.concatenate([np.stack(side, axis=-1) for side in sides])
    return jnp.asarray(interior), jnp.asarray(boundary)


def grid(per_side: int) -> Float[Array, "rows columns 2"]:
    ticks = jnp.linspace(0, 1, per_side)
    return jnp.stack(jnp.meshgrid(ticks, ticks), axis=-1)


@eqx.filter_jit
def differences(model: eqx.nn.MLP, grid) -> tuple[Array, Array]:
    """The network and the solution on a grid."""
    on_grid = lambda u: jax.vmap(jax.vmap(u))(grid)
    return on_grid(model), on_grid(solution)


def relative_error(model: eqx.nn.MLP, grid) -> float:
    ours, exact = differences(model, grid)
    return float(jnp.linalg.norm(ours - exact) / jnp.linalg.norm(exact))


class Phase:
    """One optimizer, with the error after each of at most a hundred parts of its
    steps."""

    def __init__(self, name: str, opt, steps: int):
        self.name, self.opt, self.steps = name, opt, steps
        self.seconds, self.errors, self.loss = [0.0], [], float("nan")

    def train(self, model: eqx.nn.MLP, batch, grid, progress: Progress):
        # It gives optimizers what they need: gradients, the loss, or residuals.
        step = eqxopt.make_step(residuals, residuals=True)
        self.errors.append(relative_error(model, grid))
        opt = self.opt.init(model)
        task = progress.add_task(
            self.name, total=self.steps, loss=self.loss, error=self.errors[0]
        )
        for part in np.array_split(np.arange(self.steps), min(self.steps, 100)):
            start = time.perf_counter()
            for _ in part:
                model, opt, loss = step(model, opt, *batch)
            self.loss = float(loss)
            self.seconds.append(self.seconds[-1] + time.perf_counter() - start)
            self.errors.append(relative_error(model, grid))
            progress.update(
                task, advance=len(part), loss=self.loss, error=self.errors[-1]
            )
        return model


def draw(model: eqx.nn.MLP, grid, phases: list[Phase], output: pathlib.Path) -> None:
    ours, exact = (np.asarray(x) for x in differences(model, grid))
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(13, 3.6), layout="constrained"
    )
    images = {left: (ours, "solution"), middle: (ours - exact, "error")}
    for axes, (values, title) in images.items():
        image = axes.imshow(values, origin="lower", extent=(0, 1, 0, 1))
        axes.set(title=title, xlabel="x", ylabel="y")
        figure.colorbar(image)
    start = 0.0
    for phase in phases:
        seconds = start + np.asarray(phase.seconds)
        right.semilogy(seconds, phase.errors, label=phase.name)
        start = seconds[-1]
    right.set(xlabel="seconds, with compiling", title="relative L2 error")
    right.grid(alpha=0.3)
    right.legend()
    figure.savefig(output, dpi=150)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--optimizer", default="GaussNewton", choices=SECOND, help="after Adam"
    )
    parser.add_argument("--adam-steps", type=int, default=200)
    parser.add_argument("--steps", type=int, help="after Adam; default: enough")
    parser.add_argument(
        "--damping", type=float, help="in least squares; default: one that works"
    )
    parser.add_argument("--width", type=int, default=30, help="of both hidden layers")
    parser.add_argument("--points", type=int, default=30, help="on each side")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=pathlib.Path, default="poisson.png")
    args = parser.parse_args(arguments)
    usual, options = SECOND[args.optimizer]
    if args.damping is not None:
        if "damping" not in options:
            parser.error(f"{args.optimizer} has no --damping")
        options = options | {"damping": args.damping}
    steps = usual if args.steps is None else args.steps
    if min(args.adam_steps, steps, args.width) < 1 or args.points < 2:
        parser.error("steps and --width must be at least 1, and --points at least 2")

    with jax.enable_x64(True):
        model = eqx.nn.MLP(
            2,
            "scalar",
            width_size=args.width,
            depth=2,
            activation=jnp.tanh,
            dtype=float,
            key=jax.random.key(args.seed),
        )
        rate = eqxopt.schedules.CosineDecay(5e-3, args.adam_steps)
        phases = [
            Phase("Adam", eqxopt.Adam(rate), args.adam_steps),
            Phase(args.optimizer, getattr(eqxopt, args.optimizer)(**options), steps),
        ]
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.1e}  error {task.fields[error]:.1e}"),
        )
        batch, shown = points(args.points), grid(100)
        with Progress(*columns, console=Console(stderr=True)) as progress:
            for phase in phases:
                model = phase.train(model, batch, shown, progress)
        draw(model, shown, phases, args.output)

    count = sum(x.size for x in jax.tree.leaves(eqx.filter(model, eqx.is_array)))
    table = Table(title=f"Poisson's equation, {count:,} parameters in float64")
    for column in ("optimizer", "steps", "seconds", "loss", "relative L2 error"):
        table.add_column(column, justify="left" if column == "optimizer" else "right")
    for phase in phases:
        table.add_row(
            phase.name,
            str(phase.steps),
            f"{phase.seconds[-1]:.1f}",
            f"{phase.loss:.1e}",
            f"{phase.errors[-1]:.1e}",
        )
    console = Console()
    console.print(table)
    console.print(f"pictures: {args.output}")
    return phases[-1].errors[-1]


if __name__ == "__main__":
    main()
