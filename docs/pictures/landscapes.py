"""Draws the path of every optimizer on six landscapes:

    python docs/pictures/landscapes.py

Prints a table of the rates, steps and losses, and saves it with the pictures of all
families of optimizers.
"""

import argparse
import inspect
import json
import pathlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from jaxtyping import Array, Float, Int
from tqdm import tqdm

import eqxopt


matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.patches import Rectangle
from matplotlib.path import Path
from matplotlib.transforms import Affine2D


# The landscapes. The loss is half the sum of the squared residuals.

Point = Float[Array, "2"]
TURN = jnp.array([[3**0.5, 1.0], [-1.0, 3**0.5]]) / 2
"""By 30 degrees, so that no valley lies along an axis."""
CENTRE = jnp.array([2.0, 1.0])
"""No minimum lies at the origin, where steps in proportion to the parameters end."""


def rosenbrock(point: Point) -> list[Any]:
    x, y = point
    return [2**0.5 * (1 - x), 200**0.5 * (y - x**2)]


def valley(point: Point) -> list[Any]:
    along, across = TURN @ (point - CENTRE)
    return [along, 10 * across]


def wide_valley(point: Point) -> list[Any]:
    along, across = TURN @ (point - CENTRE)
    return [along, 10**0.5 * across]


def beale(point: Point) -> list[Any]:
    x, y = point
    measured = zip((1.5, 2.25, 2.625), (1, 2, 3))
    return [2**0.5 * (z - x * (1 - y**power)) for z, power in measured]


def himmelblau(point: Point) -> list[Any]:
    x, y = point
    return [2**0.5 * (x**2 + y - 11), 2**0.5 * (x + y**2 - 7)]


def rastrigin(point: Point) -> list[Any]:
    away = point - CENTRE
    return [*(2**0.5 * away), *(8**0.5 * jnp.sin(jnp.pi * away))]


@dataclass(frozen=True)
class Landscape:
    """A loss, the lowest points, where to start, and the square that is drawn.

    - `starts`: a matrix has both points as its columns, all others the first alone.
    - `corner`, `width`: of the square.
    - `levels`: of the contour lines.
    - `target`: the loss at which an optimizer has arrived.
    - `noise`: each step sees the landscape shifted by so much.
    """

    residuals: Callable[[Point], list[Any]]
    starts: tuple[tuple[float, float], tuple[float, float]]
    minima: tuple[tuple[float, float], ...]
    corner: tuple[float, float]
    width: float
    levels: np.ndarray
    target: float = 0.01
    noise: float = 0.0


def powers(low: float, high: float, number: int = 9) -> np.ndarray:
    return np.geomspace(low, high, number)


LANDSCAPES = {
    "Rosenbrock": Landscape(
        rosenbrock,
        ((-1.0, 2.0), (0.6, -0.6)),
        ((1.0, 1.0),),
        (-2.05, -0.95),
        4.1,
        powers(0.1, 1500),
    ),
    "valley": Landscape(
        valley,
        ((-1.0, 1.6), (3.2, 3.4)),
        ((2.0, 1.0),),
        (-1.5, -2.5),
        7.0,
        powers(0.1, 800),
    ),
    "noisy valley": Landscape(
        wide_valley,
        ((-1.0, 1.6), (3.2, 3.4)),
        ((2.0, 1.0),),
        (-1.5, -2.5),
        7.0,
        powers(0.1, 100),
        target=0.1,
        noise=0.5,
    ),
    "Beale": Landscape(
        beale,
        ((0.8, 1.5), (-0.4, -1.0)),
        ((3.0, 0.5),),
        (-1.0, -2.4),
        4.6,
        powers(0.05, 2000, 10),
    ),
    "Himmelblau": Landscape(
        himmelblau,
        ((-0.6, -0.4), (0.5, -1.4)),
        ((3.0, 2.0), (-2.805, 3.131), (-3.779, -3.283), (3.584, -1.848)),
        (-5.2, -5.2),
        10.4,
        powers(1, 700),
    ),
    "Rastrigin": Landscape(
        rastrigin,
        ((-1.4, 3.7), (4.3, 4.6)),
        ((2.0, 1.0),),
        (-3.2, -4.2),
        10.4,
        np.array([2.0, 6.0, 12.0, 20.0, 30.0]),
        target=0.1,
    ),
}
# Two pictures a family: side by side on a wide page, and below each other on a phone.
HALVES = {
    "valleys": ["Rosenbrock", "valley", "noisy valley"],
    "hills": ["Beale", "Himmelblau", "Rastrigin"],
}
RATES = [float(f"{m}e{e}") for e in range(-5, 1) for m in (1, 2, 5)] + [10.0]
# From the start and from four points near it, in parts of the width.
NEAR = jnp.array([(0, 0), (0.01, 0), (-0.01, 0), (0, 0.01), (0, -0.01)])


# The optimizers, by their pages.


@dataclass(frozen=True)
class Contender:
    """How an optimizer is made from a number, what the number is, and of how many
    points its parameter consists."""

    make: Callable[[Any], eqxopt.AbstractOptimizer]
    number: str = "rate"
    points: int = 1


def tuned(
    name: str, number: str = "rate", keyword: str = "", points: int = 1, **options: Any
) -> Contender:
    """All hyperparameters but one have their defaults, and nothing decays."""
    cls = getattr(eqxopt, name)
    decay = inspect.signature(cls).parameters.get("weight_decay")
    if decay is not None and decay.default:
        options["weight_decay"] = 0.0

    def make(value: Any) -> eqxopt.AbstractOptimizer:
        if not number:
            return cls(**options)
        return cls(**{keyword: value}, **options) if keyword else cls(value, **options)

    return Contender(make, number, points)


def family(names: str, **options: Any) -> dict[str, Contender]:
    return {name: tuned(name, **options) for name in names.split()}


def falling(contender: Contender, steps: int) -> Contender:
    """With a rate that falls to 0."""
    if contender.number in ("", "damping"):
        return contender
    make = lambda number: contender.make(eqxopt.schedules.CosineDecay(number, steps))
    return Contender(make, contender.number, contender.points)


# Of the 2 directions of a matrix they keep 1, and choose it anew every 10 steps.
NARROW = dict(rank=1, update_proj_gap=10)
FAMILIES: dict[str, dict[str, Contender]] = {
    "sgd": {
        "SGD": tuned("SGD"),
        "SGD, momentum 0.9": tuned("SGD", momentum=0.9),
        "PolyakSGD": tuned("PolyakSGD", "scaling", "scaling"),
        **family("NoisySGD OptimisticGradientDescent"),
    },
    "adam": family("AdamW Adam NAdamW NAdam RAdam AMSGrad AdamaxW Adamax"),
    "adam-divisors": family(
        "AdaBelief AcProp Yogi NovoGrad AdamMini StableAdamW LaProp ADOPT"
    ),
    "adam-means": family("AdEMAMix SimplifiedAdEMAMix MARS Sophia OptimisticAdam Adan"),
    "accumulators": family("RMSProp Adagrad MADGRAD Adadelta Adafactor CAME SM3"),
    "signs": family("Lion Signum SignSGD Rprop"),
    "trust": family("LARS LAMB Fromage"),
    "rate-free": {
        **family("Prodigy DAdaptAdamW DoG DoWG", number="multiplier"),
        "COCOB": tuned("COCOB", ""),
        **family("MoMo MoMoAdam", number="longest step"),
    },
    "schedule_free": family("ScheduleFreeAdamW ScheduleFreeSGD"),
    "matrices": {
        "AdamW, two points": tuned("AdamW", points=2),
        **family("Muon NorMuon Scion SOAP Shampoo KLShampoo", points=2),
        **family("GaLore APOLLO", points=2, **NARROW),
        "PSGDKron": tuned("PSGDKron", points=2),
    },
    "curvature": {
        **family("LBFGS BFGS SSBFGS SSBroyden", number=""),
        **family(
            "GaussNewton LevenbergMarquardt NewtonCG",
            number="damping",
            keyword="damping",
        ),
    },
}


# Training.


@dataclass(frozen=True)
class Result:
    """What is drawn: the number that was best, the path of each point, the number of
    steps after which the loss stays below the target, if it does, and the mean loss of
    the last fifth of all steps."""

    number: float | None
    path: Float[np.ndarray, "points steps 2"]
    steps: int | None
    loss: float
    arrived: bool


def padded(residuals: list[Any]) -> Float[Array, "4"]:
    return jnp.stack([jnp.asarray(x, jnp.float32) for x in [*residuals, 0, 0]][:4])


def residuals(
    landscape: Int[Array, ""], params: Float[Array, "2 ..."], step: Any = None
) -> Float[Array, "points 4"]:
    """With noise, if there is a step."""
    branches = [lambda z, f=x.residuals: padded(f(z)) for x in LANDSCAPES.values()]
    points = params.reshape(2, -1).T
    if step is not None:
        noise = jnp.array([x.noise for x in LANDSCAPES.values()])[landscape]
        key = jax.random.fold_in(jax.random.key(0), step)
        points = points - noise * jax.random.normal(key, (1, 2))
    return jax.vmap(partial(jax.lax.switch, landscape, branches))(points)


def half_square(x: Array) -> Array:
    return 0.5 * jnp.sum(x**2)


@partial(
    jax.jit,
    static_argnames=("contender", "steps"),
    # Each program takes milliseconds, so it is compiled quickly, not well.
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)
def train(
    landscape: Int[Array, ""], numbers: Array, contender: Contender, steps: int
) -> tuple[Array, Array]:
    """The parameters and the losses before and after all steps, by number and by
    start: one program for all landscapes."""
    n = contender.points
    starts = jnp.array([x.starts[:n] for x in LANDSCAPES.values()])[landscape]
    widths = jnp.array([x.width for x in LANDSCAPES.values()])[landscape]

    def judge(params: Array) -> Array:
        return half_square(residuals(landscape, params)) / n

    def run(number: Array, near: Array) -> tuple[Array, Array]:
        params = (starts + widths * near[None]).T
        params = params[:, 0] if n == 1 else params
        opt = contender.make(number).init(params)

        def step(carry: Any, i: Array) -> Any:
            params, opt = carry
            residual_fn = lambda params: residuals(landscape, params, i)
            value_fn = lambda params: half_square(residual_fn(params))
            value, grads = jax.value_and_grad(value_fn)(params)
            params, opt = opt.apply(
                grads, params, value=value, value_fn=value_fn, residual_fn=residual_fn
            )
            shown = opt.eval_params(params)
            return (params, opt), (shown, judge(shown))

        _, after = jax.lax.scan(step, (params, opt), jnp.arange(steps))
        before = params, judge(params)
        return jax.tree.map(lambda x, y: jnp.concatenate([x[None], y]), before, after)

    return jax.vmap(jax.vmap(run, (None, 0)), (0, None))(numbers, NEAR)


def best(
    contender: Contender, landscape: Landscape, paths: np.ndarray, losses: np.ndarray
) -> Result:
    """The number with which most starts lead to the target. Of several, if not all
    starts do, the one with the lowest loss at the end, and then the one whose
    logarithmic loss is the lowest on average. A number comes last if the path leaves
    the square, or leads up to more than twice the loss of the start."""
    losses = np.nan_to_num(losses.astype(float), nan=1e30, posinf=1e30)
    last = losses.shape[2] // 10
    end = np.mean(losses[:, :, -2 * last :], axis=2)
    if landscape.noise:
        bounds, late = losses, end
    else:  # what no later loss exceeds
        bounds = np.maximum.accumulate(losses[:, :, ::-1], axis=2)[:, :, ::-1]
        late = bounds[:, :, -last]
    missed = late > landscape.target
    steps = np.sum(bounds > landscape.target, axis=2)
    speed = np.mean(np.log(np.maximum(bounds, landscape.target / 100)), axis=2)
    points = paths.reshape(*paths.shape[:3], 2, -1)
    below = np.reshape(landscape.corner, (2, 1))
    inside = (points >= below) & (points <= below + landscape.width)
    outside = ~np.all(inside[:, 0], axis=(1, 2, 3))
    high = np.max(losses[:, 0], axis=1) > 2 * losses[:, 0, 0]
    ranks = zip(
        outside | high,
        np.sum(missed, axis=1),
        [float(f"{x:.2g}") for x in np.mean(np.where(missed, late, 0), axis=1)],
        np.mean(speed, axis=1),
        range(len(late)),
    )
    *_, i = min(ranks)
    arrived = not missed[i, 0]
    return Result(
        number=RATES[i] if contender.number else None,
        path=points[i, 0].transpose(2, 0, 1),
        steps=int(steps[i, 0]) if arrived and not landscape.noise else None,
        loss=float(end[i, 0]),
        arrived=arrived,
    )


def results_of(contender: Contender, steps: int) -> dict[str, Result]:
    numbers = jnp.array(RATES if contender.number else [1.0])
    results = {}
    for i, (name, landscape) in enumerate(LANDSCAPES.items()):
        paths, losses = train(jnp.array(i), numbers, contender, steps)
        results[name] = best(
            contender, landscape, np.asarray(paths), np.asarray(losses)
        )
    return results


# Pictures, in pixels of a page.

# Readable on a light page and on a dark one.
GREY, ARRIVED, MISSED, MINIMUM = "#808080", "#5c6bc0", "#ef8e19", "#26a69a"
SIDE, GAP, NAME, CAPTION = 106, 6, 17, 17
POINTS = 0.75
"""Of a font, in a pixel."""


def canvas(width: float, height: float) -> tuple[Any, Axes]:
    """Axes whose units are pixels, from the upper left corner."""
    figure = plt.figure(figsize=(width * POINTS / 72, height * POINTS / 72), dpi=72)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    return figure, axes


def write(axes: Axes, x: float, y: float, text: str, **options: Any) -> None:
    """Text whose baseline is at `y`."""
    options = {"color": GREY, "fontsize": 11 * POINTS, "va": "baseline"} | options
    axes.text(x, y, text, **options)


def pixels(landscape: Landscape, points: np.ndarray, side: float) -> np.ndarray:
    """Points of a landscape as places in its square, from the upper left corner."""
    x, y = (np.moveaxis(points, -1, 0).T - landscape.corner).T / landscape.width
    return side * np.stack([x, 1 - y], axis=-1)


def contours(landscape: Landscape, side: float) -> Path:
    ticks = np.linspace(0, landscape.width, 101)
    grid = np.stack(np.meshgrid(*(ticks + x for x in landscape.corner)), axis=-1)
    loss = jax.vmap(lambda z: half_square(padded(landscape.residuals(z))))
    heights = np.asarray(loss(jnp.array(grid.reshape(-1, 2)))).reshape(101, 101)
    figure, axes = plt.subplots()
    lines = axes.contour(grid[..., 0], grid[..., 1], heights, landscape.levels)
    levels = [
        Path(pixels(landscape, level.vertices, side), level.codes).cleaned(
            simplify=True
        )
        for level in lines.get_paths()
    ]
    plt.close(figure)
    return Path.make_compound_path(*levels)


def draw_landscape(
    axes: Axes, landscape: Landscape, corners: list[tuple[float, float]], side: float
) -> None:
    """The contour lines, once for all panels, the frames and the lowest points."""
    axes.add_collection(
        PathCollection(
            [contours(landscape, side)],
            offsets=corners,
            offset_transform=axes.transData,
            transform=Affine2D().scale(POINTS, -POINTS),
            facecolors="none",
            edgecolors=GREY,
            linewidths=0.45,
            alpha=0.7,
        )
    )
    frame = Path(np.array([(0, 0), (side, 0), (side, side), (0, side), (0, 0)]))
    axes.add_collection(
        PathCollection(
            [frame],
            offsets=corners,
            offset_transform=axes.transData,
            transform=Affine2D().scale(POINTS, -POINTS),
            facecolors="none",
            edgecolors=GREY,
            linewidths=0.6,
        )
    )
    minima = pixels(landscape, np.array(landscape.minima), side)
    stars = np.concatenate([minima + corner for corner in corners])
    style = dict(marker="*", s=side / 3, color=MINIMUM, linewidths=0, zorder=4)
    axes.scatter(*stars.T, **style)


def draw_path(
    axes: Axes,
    landscape: Landscape,
    result: Result,
    corner: tuple[float, float],
    side: float,
) -> None:
    color = ARRIVED if result.arrived else MISSED
    square = Rectangle(corner, side, side, transform=axes.transData)
    for path in result.path:
        finite = path[np.all(np.isfinite(path), axis=1)]
        places = pixels(landscape, finite, side)
        # After it has ended, a path is drawn no further.
        away = np.max(np.abs(places - places[-1]), axis=1) > 0.2
        places = places[: np.max(np.nonzero(away)[0], initial=0) + 2]
        places = np.clip(places, -30 * side, 30 * side) + corner
        few = len(places) <= 60
        (line,) = axes.plot(
            *places.T,
            color=color,
            linewidth=0.9,
            solid_joinstyle="round",
            marker="o" if few else "",
            markersize=1.8,
            markeredgewidth=0,
            zorder=3,
        )
        line.set_clip_path(square)
        axes.plot(
            *places[0],
            marker="o",
            markersize=4.5,
            markerfacecolor="none",
            markeredgecolor=GREY,
            zorder=5,
        )
        (end,) = axes.plot(
            *places[-1], "o", color=color, markersize=3.4, markeredgewidth=0, zorder=5
        )
        end.set_clip_path(square)


def caption(result: Result) -> tuple[str, str]:
    """The number, and how far it came."""
    number = "" if result.number is None else f"{result.number:g}"
    if result.steps is None:
        return number, f"loss {short(result.loss)}"
    return number, counted(result.steps)


def counted(steps: int) -> str:
    return f"{steps} step{'' if steps == 1 else 's'}"


def short(loss: float) -> str:
    if not loss < 1e6:
        return "inf"
    digits = 2 if loss >= 0.01 else 1
    return f"{loss:.{digits}g}" if loss == 0 or loss >= 1e-3 else f"{loss:.0e}"


def draw_family(
    contenders: dict[str, Contender],
    results: dict[str, dict[str, Result]],
    names: list[str],
    output: pathlib.Path,
) -> None:
    """A row for each optimizer, and a column for each landscape."""
    row = NAME + SIDE + CAPTION + GAP
    width, height = len(names) * (SIDE + GAP), 18 + len(results) * row
    figure, axes = canvas(width, height)
    for j, name in enumerate(names):
        landscape, x = LANDSCAPES[name], 0.5 + j * (SIDE + GAP)
        write(axes, x, 11, name)
        tops = [18 + i * row + NAME for i in range(len(results))]
        draw_landscape(axes, landscape, [(x, top) for top in tops], SIDE)
        for top, (label, found) in zip(tops, results.items()):
            draw_path(axes, landscape, found[name], (x, top), SIDE)
            number, reached = caption(found[name])
            below = top + SIDE + CAPTION - 4
            write(axes, x, below, number)
            write(axes, x + SIDE, below, reached, ha="right")
            if j == 0:
                write(axes, x, top - 5, label, fontsize=12 * POINTS, weight="bold")
            number = contenders[label].number
            if j == len(names) - 1 and number != "rate":
                write(axes, x + SIDE, top - 5, number or "no rate", ha="right")
    save(figure, output)


def draw_landscapes(output: pathlib.Path) -> None:
    """All landscapes, larger, with what the marks mean."""
    side, gap = 160, 10
    figure, axes = canvas(3 * (side + gap), 2 * (side + 24) + 24)
    for k, (name, landscape) in enumerate(LANDSCAPES.items()):
        corner = 0.5 + k % 3 * (side + gap), 20 + k // 3 * (side + 24)
        draw_landscape(axes, landscape, [corner], side)
        starts = pixels(landscape, np.array(landscape.starts), side) + corner
        for (x, y), number in zip(starts, "12"):
            axes.plot(x, y, "o", markersize=6, markerfacecolor="none", color=GREY)
            write(axes, x + 6, y - 4, number)
        write(axes, corner[0], corner[1] - 6, name)
    y = 2 * (side + 24) + 14
    marks = {
        "start": dict(marker="o", markerfacecolor="none", color=GREY, markersize=6),
        "lowest point": dict(marker="*", color=MINIMUM, markersize=8),
        "arrived": dict(marker="o", color=ARRIVED, markersize=4),
        "did not arrive": dict(marker="o", color=MISSED, markersize=4),
    }
    for x, (label, mark) in zip((8, 90, 210, 310), marks.items()):
        if "arrive" in label:
            axes.plot([x - 12, x], [y - 4, y - 4], color=mark["color"], linewidth=1.2)
        axes.plot(x, y - 4, markeredgewidth=1 if label == "start" else 0, **mark)
        write(axes, x + 10, y, label)
    save(figure, output)


def save(figure: Any, output: pathlib.Path) -> None:
    """Two digits behind the point are enough, and take half of the bytes."""
    figure.savefig(output, transparent=True, metadata={"Date": None})
    plt.close(figure)
    rounded = lambda x: f"{float(x[0]):.2f}".rstrip("0").rstrip(".")
    attribute = lambda x: re.sub(r"-?\d+\.\d{3,}", rounded, x[0])
    text = re.sub(r' (?:d|x|y|transform)="[^"]*"', attribute, output.read_text())
    output.write_text(text)


STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "path.simplify_threshold": 0.25,
    "svg.fonttype": "none",
    "svg.hashsalt": "landscapes",
}


# Tables.


def cell(result: Result) -> str:
    number = "" if result.number is None else f"{result.number:g}: "
    steps = "" if result.steps is None else f"{counted(result.steps)}, "
    return f"{number}{steps}{short(result.loss)}"


def cell_of_page(result: Result) -> str:
    """What stands below the panel, in two lines."""
    number, reached = caption(result)
    return f"{reached.replace(' ', '&nbsp;')}<br>{number}".removesuffix("<br>")


def table(
    results: dict[str, dict[str, Result]], cell: Callable[[Result], str] = cell
) -> str:
    lines = [["optimizer", *LANDSCAPES], ["---"] * (len(LANDSCAPES) + 1)]
    for label, found in results.items():
        lines.append([label, *map(cell, found.values())])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def figures(results: dict[str, dict[str, Result]]) -> dict[str, Any]:
    return {
        label: {
            name: {
                "number": x.number,
                "steps": x.steps,
                "loss": float(f"{x.loss:.3g}"),
                "arrived": x.arrived,
            }
            for name, x in found.items()
        }
        for label, found in results.items()
    }


def main(arguments: list[str] | None = None) -> dict[str, dict[str, Result]]:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    every = [label for contenders in FAMILIES.values() for label in contenders]
    parser.add_argument("--optimizers", nargs="+", default=every, choices=every)
    parser.add_argument("--steps", type=int, default=500)
    cosine = "rates fall to 0 as a cosine, in place of constant ones"
    parser.add_argument("--cosine", action="store_true", help=cosine)
    here = pathlib.Path(__file__).parent
    parser.add_argument("--output", type=pathlib.Path, default=here, help="a folder")
    args = parser.parse_args(arguments)

    results = {}
    chosen = {
        label: x
        for contenders in FAMILIES.values()
        for label, x in contenders.items()
        if label in args.optimizers
    }
    for label, x in tqdm(chosen.items(), unit="optimizer"):
        drawn = falling(x, args.steps) if args.cosine else x
        results[label] = results_of(drawn, args.steps)
    with matplotlib.rc_context(STYLE):
        draw_landscapes(args.output / "landscapes.svg")
        for page, contenders in FAMILIES.items():
            found = {x: results[x] for x in contenders if x in results}
            for half, names in HALVES.items() if found else ():
                output = args.output / f"landscapes-{page}-{half}.svg"
                draw_family(contenders, found, names, output)
    text = table(results, cell_of_page)
    (args.output / "landscapes.md").write_text(text + "\n")
    numbers = json.dumps(figures(results), indent=1)
    (args.output / "landscapes.json").write_text(numbers + "\n")
    print(table(results))
    return results


if __name__ == "__main__":
    main()
