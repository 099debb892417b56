"""Trains a transformer on Python's own help, with Muon for its matrices.

AdamW trains all other parameters, with a schedule of its own. Prints the loss on text
held out from training, beside that of AdamW alone, and what the model writes.

    python examples/characters.py --steps 400
"""

import argparse
import pathlib
import pydoc_data.topics
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from sharded import loss_fn, Transformer

import eqxopt


matplotlib.use("Agg")
import matplotlib.pyplot as plt


class Text(NamedTuple):
    """A text as codes, which are places in its alphabet."""

    alphabet: list[str]
    train: np.ndarray
    held_out: np.ndarray


class Log(NamedTuple):
    """What a run measured."""

    losses: np.ndarray
    norms: np.ndarray
    rates: dict[str, np.ndarray]
    held_out: dict[int, float]


def read() -> Text:
    """The last tenth is held out. Many topics repeat paragraphs of others, so each
    paragraph is taken once."""
    topics = "\n\n".join(pydoc_data.topics.topics.values())
    whole = "\n\n".join(dict.fromkeys(topics.split("\n\n")))
    alphabet = sorted(set(whole))
    known = {character: i for i, character in enumerate(alphabet)}
    codes = np.array([known[character] for character in whole], np.int32)
    return Text(alphabet, *np.split(codes, [len(codes) * 9 // 10]))


def batches(codes: np.ndarray, size: int, context: int, seed: int):
    """Pieces of the text from random places, and the characters that follow."""
    random = np.random.default_rng(seed)
    while True:
        starts = random.integers(len(codes) - context, size=(size, 1))
        pieces = codes[starts + np.arange(context + 1)]
        yield pieces[:, :-1], pieces[:, 1:]


# --8<-- [start:hidden]
def hidden(path, array):
    """The matrices inside of the blocks."""
    return ".blocks" in path and array.ndim == 2


# --8<-- [end:hidden]


# --8<-- [start:muon]
def warmup_and_decay(peak, steps):
    return eqxopt.schedules.WarmupCosineDecay(0.0, peak, steps // 10, steps)


def muon(steps, rate=0.05, rate_of_rest=0.02):
    rest = eqxopt.AdamW(
        warmup_and_decay(rate_of_rest, steps), b2=0.95, weight_decay=0.0
    )
    opt = eqxopt.Muon(
        warmup_and_decay(rate, steps), weight_decay=0.1, matrices=hidden, fallback=rest
    )
    return eqxopt.Chain(eqxopt.ClipByGlobalNorm(1.0), opt)


# --8<-- [end:muon]


def adamw(steps, rate=0.02):
    opt = eqxopt.AdamW(
        warmup_and_decay(rate, steps), b2=0.95, weight_decay=0.1, mask=hidden
    )
    return eqxopt.Chain(eqxopt.ClipByGlobalNorm(1.0), opt)


def train(
    name: str, text: Text, opt: eqxopt.AbstractOptimizer, args: argparse.Namespace
) -> tuple[Transformer, Log]:
    model = Transformer(
        len(text.alphabet),
        args.context,
        args.width,
        args.depth,
        jax.random.key(args.seed),
    )
    opt = opt.init(model)
    train_step = eqxopt.make_step(loss_fn, microbatches=args.microbatches)
    evaluate = eqx.filter_jit(loss_fn)
    checks = next(batches(text.held_out, 512, args.context, seed=1))
    losses, norms, rates, held_out = [], [], [], {}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}  held out {task.fields[score]:.3f}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task(name, total=args.steps, loss=np.nan, score=np.nan)
        pieces = batches(text.train, args.batch_size, args.context, args.seed)
        for step, batch in zip(range(1, args.steps + 1), pieces):
            rates.append(learning_rates(opt))
            model, opt, loss = train_step(model, opt, *batch)
            losses.append(loss)
            norms.append(opt["ClipByGlobalNorm"].norm)
            if step % max(1, args.steps // 10) == 0 or step == args.steps:
                score = evaluate(opt.eval_params(model), *checks)
                held_out[step] = float(score)
                progress.update(bar, loss=float(loss), score=held_out[step])
            progress.update(bar, completed=step)
    per_name = {key: np.array([float(x[key]) for x in rates]) for key in rates[0]}
    losses, norms = (np.asarray(jnp.stack(x)) for x in (losses, norms))
    return model, Log(losses, norms, per_name, held_out)


def learning_rates(opt: eqxopt.AbstractOptimizer) -> dict[str, Array]:
    """Those of the next step, by the name of the optimizer."""
    ending = ".learning_rate"
    numbers = opt.hyperparameters()
    return {x.removesuffix(ending): numbers[x] for x in numbers if x.endswith(ending)}


# --8<-- [start:write]
@eqx.filter_jit
def write(model, start: Int[Array, " context"], length: int, key: PRNGKeyArray):
    """Append `length` characters to `start`, each drawn from what the model expects."""

    def append(window, key):
        new = jax.random.categorical(key, model(window)[-1] / 0.7)
        return jnp.append(window[1:], new.astype(window.dtype)), new

    return jax.lax.scan(append, start, jax.random.split(key, length))[1]


# --8<-- [end:write]


def draw(logs: dict[str, Log], output: pathlib.Path) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for i, (name, log) in enumerate(logs.items()):
        left.plot(log.losses, color=f"C{i}", linewidth=0.5, alpha=0.5)
        places, scores = [*log.held_out], [*log.held_out.values()]
        left.plot(places, scores, "o-", color=f"C{i}", label=f"{name}, held out")
        for of, rates in log.rates.items():
            line = "--" if of != name else "-"
            right.plot(rates, line, color=f"C{i}", label=of)
    top = max(log.losses[len(log.losses) // 20] for log in logs.values())
    left.set(xlabel="step", ylabel="loss of a character", ylim=(None, top))
    right.set(xlabel="step", ylabel="learning rate")
    for axes in (left, right):
        axes.legend()
        axes.grid(alpha=0.3)
    figure.savefig(output, dpi=150)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> dict[str, Log]:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--microbatches", type=int, default=2)
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--characters", type=int, default=400, help="how many to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=pathlib.Path, default="characters.png")
    args = parser.parse_args(arguments)
    if args.steps < 1 or args.batch_size % args.microbatches:
        parser.error("--steps must be at least 1, and --microbatches divide the batch")

    text, logs = read(), {}
    optimizers = {"AdamW": adamw(args.steps), "Muon": muon(args.steps)}
    for name, opt in optimizers.items():
        model, logs[name] = train(name, text, opt, args)
    draw(logs, args.output)

    table = Table(title=f"{len(text.train):,} characters, {args.steps} steps")
    for column in ("optimizer", "loss", "held out", "clipped steps"):
        table.add_column(column, justify="left" if column == "optimizer" else "right")
    for name, log in logs.items():
        table.add_row(
            name,
            f"{np.mean(log.losses[-20:]):.3f}",
            f"{log.held_out[args.steps]:.3f}",
            f"{np.mean(log.norms > 1):.0%}",
        )
    console = Console()
    console.print(table)
    start = text.held_out[: args.context]
    written = write(model, start, args.characters, jax.random.key(args.seed))
    console.rule("Muon's model goes on with the text held out")
    print("".join(text.alphabet[code] for code in [*start, *np.asarray(written)]))
    console.print(f"losses and rates: {args.output}")
    return logs


if __name__ == "__main__":
    main()
