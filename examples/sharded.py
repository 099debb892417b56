"""Trains on eight devices: handwritten digits, or a transformer on Python's own help.

Data parallel, with ZeRO-1 and with FSDP, one after the other: the numbers are the same,
and each device has less and less of the model and its optimizer. Without accelerators
the devices are eight parts of the CPU.

    python examples/sharded.py --task text --layout zero-1
"""

import argparse
import pathlib
import pydoc_data.topics
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from jax.sharding import AxisType
from jaxtyping import Array, Float, Int, PRNGKeyArray
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits

import eqxopt


matplotlib.use("Agg")
import matplotlib.pyplot as plt


LAYOUTS = ["data", "zero-1", "fsdp"]
CONTEXT = 64


# --8<-- [start:transformer]
class Block(eqx.Module):
    """A layer of a transformer: attention to what came before, and a network."""

    attention: eqx.nn.MultiheadAttention
    network: eqx.nn.MLP
    norms: list[eqx.nn.LayerNorm]

    def __init__(self, width: int, *, key: PRNGKeyArray):
        keys = jax.random.split(key)
        self.attention = eqx.nn.MultiheadAttention(4, width, key=keys[0])
        self.network = eqx.nn.MLP(width, width, 4 * width, 1, jax.nn.gelu, key=keys[1])
        self.norms = [eqx.nn.LayerNorm(width) for _ in range(2)]

    def __call__(self, x: Float[Array, "length width"]) -> Float[Array, "length width"]:
        before = jnp.tril(jnp.ones((len(x), len(x)), bool))
        normed = jax.vmap(self.norms[0])(x)
        x = x + self.attention(normed, normed, normed, before)
        return x + jax.vmap(self.network)(jax.vmap(self.norms[1])(x))


class Transformer(eqx.Module):
    """Guesses the next character of a text."""

    characters: eqx.nn.Embedding
    places: eqx.nn.Embedding
    blocks: list[Block]
    head: eqx.nn.Linear

    def __init__(
        self, characters: int, context: int, width: int, depth: int, key: PRNGKeyArray
    ):
        keys = jax.random.split(key, depth + 3)
        self.characters = eqx.nn.Embedding(characters, width, key=keys[0])
        self.places = eqx.nn.Embedding(context, width, key=keys[1])
        self.head = eqx.nn.Linear(width, characters, key=keys[2])
        self.blocks = [Block(width, key=key) for key in keys[3:]]

    def __call__(self, text: Int[Array, " length"]) -> Float[Array, "length codes"]:
        places = jnp.arange(len(text))
        x = jax.vmap(self.characters)(text) + jax.vmap(self.places)(places)
        for block in self.blocks:
            x = block(x)
        return jax.vmap(self.head)(x)


# --8<-- [end:transformer]


def loss_fn(
    model: Any, inputs: Float[Array, "batch ..."] | Int[Array, "batch ..."], labels: Any
) -> Float[Array, ""]:
    log_probs = jax.nn.log_softmax(jax.vmap(model)(inputs))
    return -jnp.mean(jnp.take_along_axis(log_probs, labels[..., None], axis=-1))


def digits(seed: int) -> tuple[Any, tuple[np.ndarray, np.ndarray]]:
    """A model, and its data."""
    data = load_digits()
    model = eqx.nn.MLP(64, 10, 128, 2, key=jax.random.key(seed))
    return model, (data.data.astype(np.float32) / 16, data.target.astype(np.int32))


def text(seed: int) -> tuple[Any, tuple[np.ndarray, np.ndarray]]:
    whole = "".join(pydoc_data.topics.topics.values())
    known = {character: i for i, character in enumerate(sorted(set(whole)))}
    codes = np.array([known[character] for character in whole], np.int32)
    pieces = codes[: len(codes) // CONTEXT * CONTEXT].reshape(-1, CONTEXT)
    following = np.roll(codes, -1)[: pieces.size].reshape(pieces.shape)
    model = Transformer(len(known), CONTEXT, 64, 2, jax.random.key(seed))
    return model, (pieces, following)


TASKS = {"digits": digits, "text": text}


def bytes_on_a_device(tree: Any) -> int:
    arrays = jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))
    return sum(x.addressable_shards[0].data.nbytes for x in arrays)


def train(task: str, layout: str, steps: int, batch_size: int, seed: int):
    """The losses, the bytes that a device has of the model and of its optimizer, and
    the seconds."""
    mesh = jax.make_mesh((jax.device_count(),), ("data",), (AxisType.Auto,))
    model, data = TASKS[task](seed)
    rate = eqxopt.schedules.WarmupCosineDecay(0.0, 3e-3, steps // 10, steps)
    model, opt = eqxopt.shard(model, eqxopt.AdamW(rate), mesh, layout)
    start = time.perf_counter()
    model, opt, history = eqxopt.fit(
        loss_fn,
        model,
        opt,
        data,
        steps=steps,
        batch_size=batch_size,
        key=jax.random.key(seed),
    )
    seconds = time.perf_counter() - start
    return history.loss, [bytes_on_a_device(model), bytes_on_a_device(opt)], seconds


def draw(task: str, results: dict[str, Any], output: pathlib.Path) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for i, (layout, (losses, sizes, _)) in enumerate(results.items()):
        left.semilogy(losses, ["-", "--", ":"][i], color=f"C{i}", label=layout)
        below = 0.0
        for name, size, color in zip(("model", "state"), sizes, ("C2", "C3")):
            label = name if i == 0 else None
            right.bar(i, size / 1e3, bottom=below, color=color, label=label)
            below += size / 1e3
    left.set(xlabel="step", ylabel="loss", title=f"{task}: the same in all layouts")
    right.set(ylabel="kB on a device", title="What a device has")
    right.set_xticks(range(len(results)), [*results])
    for axes in (left, right):
        axes.legend()
        axes.grid(alpha=0.3)
    figure.savefig(output, dpi=150)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--task", choices=TASKS, default="digits")
    parser.add_argument("--layout", choices=LAYOUTS, nargs="+", default=LAYOUTS)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=pathlib.Path, default="sharded.png")
    args = parser.parse_args(arguments)

    results = {
        layout: train(args.task, layout, args.steps, args.batch_size, args.seed)
        for layout in args.layout
    }
    draw(args.task, results, args.output)
    table = Table(title=f"{args.task}, on {jax.device_count()} devices")
    table.add_column("layout")
    for column in ("kB of model", "kB of state", "last loss", "seconds"):
        table.add_column(column, justify="right")
    for layout, (losses, sizes, seconds) in results.items():
        last = np.mean(losses[-20:])
        cells = [*(f"{size / 1e3:.1f}" for size in sizes), f"{last:.4f}"]
        table.add_row(layout, *cells, f"{seconds:.1f}")
    console = Console()
    console.print(table)
    console.print(f"losses and bytes: {args.output}")
    return results


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    main()
