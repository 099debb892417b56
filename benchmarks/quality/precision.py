"""Training with narrow state or narrow parameters: how near it ends to float32.

Three tasks with real data, five seeds each. All moments are stored in the other form,
also those of small parameters. Parameters in bfloat16 are used in float32.
"""

import pathlib
import pydoc_data.topics
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits

import eqxopt
from examples.sharded import Transformer

from ..report import HELD, in_grey, markdown, MISSED, summary


class Task(NamedTuple):
    """What is trained: a model for each seed, the loss of a batch, and the number of
    batches."""

    model: Callable[[Any], Any]
    batch: Callable[[Any], Any]
    loss: Callable[[Any, Any], Any]
    steps: int
    whole: Any
    """The batch on which the trained model is judged."""


def classes(load: Callable[..., Any], width: int, steps: int) -> Task:
    x, y = load(return_X_y=True)
    x = jnp.asarray((x - x.mean(0)) / (x.std(0) + 1e-6), jnp.float32)
    y = jnp.asarray(y)
    n = int(y.max()) + 1

    def loss(model, batch):
        x, y = batch
        logits = jax.nn.log_softmax(jax.vmap(model)(x))
        return -jnp.mean(jnp.sum(jax.nn.one_hot(y, n) * logits, axis=1))

    def batch(key):
        rows = jax.random.randint(key, (64,), 0, len(x))
        return x[rows], y[rows]

    model = lambda key: eqx.nn.MLP(x.shape[1], n, width, 2, key=key)
    return Task(model, batch, loss, steps, (x, y))


def text(context: int, width: int, depth: int, steps: int) -> Task:
    """Python's own help, character by character."""
    whole = "".join(pydoc_data.topics.topics.values())
    known = sorted(set(whole))
    number = {character: i for i, character in enumerate(known)}
    codes = jnp.asarray([number[character] for character in whole], jnp.int32)

    def windows(key, n):
        starts = jax.random.randint(key, (n,), 0, len(codes) - context)
        return jax.vmap(lambda i: jax.lax.dynamic_slice_in_dim(codes, i, context + 1))(
            starts
        )

    def loss(model, batch):
        logits = jax.nn.log_softmax(jax.vmap(model)(batch[:, :-1]))
        right = jax.nn.one_hot(batch[:, 1:], len(known))
        return -jnp.mean(jnp.sum(right * logits, axis=-1))

    model = lambda key: Transformer(len(known), context, width, depth, key)
    judged = windows(jax.random.key(99), 128)
    return Task(model, lambda key: windows(key, 16), loss, steps, judged)


def compact(storage: str) -> Callable[[Any], Any]:
    return lambda opt: eqxopt.CompactState(opt, storage, min_size=1)


STATE = {
    "float32": lambda opt: opt,
    "bfloat16 state": compact("bfloat16"),
    "packed state": compact("packed"),
    "8-bit state": compact("8-bit"),
}
WEIGHTS = {
    "bfloat16, MasterWeights": eqxopt.MasterWeights,
    "bfloat16, SplitWeights": eqxopt.SplitWeights,
    "bfloat16, CompensatedWeights": eqxopt.CompensatedWeights,
    "bfloat16, StochasticRounding": eqxopt.StochasticRounding,
    "bfloat16, plain": lambda opt: opt,
}


def final_losses(task: Task, wrap: Callable, narrow: bool, seeds: int) -> np.ndarray:
    """The loss at the end for each seed."""
    rate = eqxopt.schedules.WarmupCosineDecay(
        0.0, 3e-4, task.steps // 10, task.steps, end_value=3e-5
    )

    def cast(model, dtype):
        arrays, rest = eqx.partition(model, eqx.is_inexact_array)
        return eqx.combine(jax.tree.map(lambda x: x.astype(dtype), arrays), rest)

    def trained(key):
        model = task.model(key)
        if narrow:
            model = cast(model, jnp.bfloat16)
        arrays, rest = eqx.partition(model, eqx.is_array)
        opt = wrap(eqxopt.AdamW(rate)).init(model)
        loss = lambda model, batch: task.loss(cast(model, jnp.float32), batch)

        def step(carry, i):
            arrays, opt = carry
            model = eqx.combine(arrays, rest)
            grads = eqx.filter_grad(loss)(model, task.batch(jax.random.fold_in(key, i)))
            model, opt = opt.apply(grads, model)
            return (eqx.filter(model, eqx.is_array), opt), None

        (arrays, _), _ = jax.lax.scan(step, (arrays, opt), jnp.arange(task.steps))
        return loss(eqx.combine(arrays, rest), task.whole)

    keys = jax.random.split(jax.random.key(7), seeds)
    return np.asarray(jax.jit(jax.vmap(trained))(keys))


@dataclass
class Ends:
    """The losses at the end, by task and by what was kept in fewer bits."""

    losses: dict[str, dict[str, list[float]]]

    def distance(self, task: str, name: str) -> float:
        """The difference from the mean of float32, in its standard deviations."""
        base = self.losses[task]["float32"]
        spread = statistics.stdev(base) if len(base) > 1 else float("nan")
        return (
            statistics.mean(self.losses[task][name]) - statistics.mean(base)
        ) / spread

    def table(self) -> str:
        header = {"what": False} | {task: True for task in self.losses}
        rows = []
        for name in next(iter(self.losses.values())):
            row = [name]
            for task, by_name in self.losses.items():
                mean, spread = statistics.mean(by_name[name]), _spread(by_name[name])
                off = (
                    "" if name == "float32" else f" ({self.distance(task, name):+.1f})"
                )
                row.append(f"{mean:.4f} ± {spread:.4f}{off}")
            rows.append(row)
        return markdown(header, rows)

    def verdict(self) -> str:
        names = [x for x in next(iter(self.losses.values())) if "plain" not in x]
        pairs = [(task, name) for task in self.losses for name in names[1:]]
        missed = [
            f"{name}, {task}: {self.distance(task, name):+.1f}"
            for task, name in pairs
            if self.distance(task, name) > 1
        ]
        return summary(len(pairs), missed)

    def rows(self) -> list[dict[str, Any]]:
        return [
            {"task": task, "what": name, "losses": losses}
            for task, by_name in self.losses.items()
            for name, losses in by_name.items()
        ]

    def draw(self, output: pathlib.Path) -> None:
        names = list(next(iter(self.losses.values())))
        size = {"figsize": (9, 3), "layout": "constrained"}
        figure, every = plt.subplots(1, len(self.losses), sharey=True, **size)
        for axes, (task, by_name) in zip(np.atleast_1d(every), self.losses.items()):
            for i, name in enumerate(names):
                ends = by_name[name]
                color = MISSED if self.distance(task, name) > 1 else HELD
                axes.plot(ends, [-i] * len(ends), "o", color=color, markersize=4)
            axes.set(title=task, xlabel="loss at the end", xscale="log")
            axes.set_yticks([-i for i in range(len(names))], names)
            # Those that a logarithmic axis has by itself lie on each other.
            ticks = np.geomspace(*axes.get_xlim(), 4)[1:3]
            axes.set_xticks(ticks, [f"{x:.2g}" for x in ticks])
            axes.set_xticks([], minor=True)
            in_grey(axes)
        figure.savefig(output, transparent=True, metadata={"Date": None})
        plt.close(figure)


def _spread(losses: list[float]) -> float:
    return statistics.stdev(losses) if len(losses) > 1 else 0.0


def precision(
    *, seeds: int = 5, scale: float = 1.0, only: Sequence[str] = (*STATE, *WEIGHTS)
) -> Ends:
    tasks = {
        "digits": classes(load_digits, 64, int(3000 * scale)),
        "breast cancer": classes(load_breast_cancer, 32, int(2000 * scale)),
        "characters": text(32, 64, 2, int(800 * scale)),
    }
    losses: dict[str, dict[str, list[float]]] = {}
    for name, task in tasks.items():
        ends = {}
        for what, wrap in (STATE | WEIGHTS).items():
            if what in only:
                narrow = what in WEIGHTS
                ends[what] = final_losses(task, wrap, narrow, seeds).tolist()
        losses[name] = ends
    return Ends(losses)
