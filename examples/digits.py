"""Trains a small network on 1,797 handwritten digits with any optimizer of eqxopt.

Prints the accuracy on digits held out from training, and draws the loss and accuracy.

    python examples/digits.py --optimizer AdamW
"""

import argparse
import pathlib
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import eqxopt


matplotlib.use("Agg")
import matplotlib.pyplot as plt


# The first argument of each optimizer, where it trains this network well. It is the
# learning rate, but of PolyakSGD a factor and of LevenbergMarquardt the damping.
RATES = {
    "AcProp": 0.01,
    "AdaBelief": 3e-3,
    "Adadelta": 1.0,
    "Adafactor": 0.03,
    "Adagrad": 0.1,
    "Adam": 3e-3,
    "Adamax": 0.01,
    "AdamaxW": 0.01,
    "AdamMini": 3e-3,
    "AdamW": 3e-3,
    "Adan": 3e-3,
    "AdEMAMix": 3e-3,
    "ADOPT": 3e-3,
    "AMSGrad": 3e-3,
    "APOLLO": 0.01,
    "CAME": 1e-3,
    "COCOB": 1.0,
    "DAdaptAdamW": 1.0,
    "DoG": 1.0,
    "DoWG": 0.5,
    "Fromage": 0.03,
    "GaLore": 0.01,
    "GaussNewton": 0.1,
    "KLShampoo": 1e-3,
    "LAMB": 3e-3,
    "LaProp": 3e-3,
    "LARS": 1.0,
    "LBFGS": 3.0,
    "LevenbergMarquardt": 0.1,
    "Lion": 3e-4,
    "MADGRAD": 0.01,
    "MARS": 3e-3,
    "MoMo": 1.0,
    "MoMoAdam": 0.01,
    "Muon": 7e-3,
    "NAdam": 3e-3,
    "NAdamW": 3e-3,
    "NewtonCG": 1.0,
    "NoisySGD": 0.3,
    "NorMuon": 7e-3,
    "NovoGrad": 0.03,
    "OptimisticAdam": 3e-3,
    "OptimisticGradientDescent": 0.3,
    "PolyakSGD": 1.0,
    "Prodigy": 1.0,
    "PSGDKron": 1e-3,
    "RAdam": 0.01,
    "RMSProp": 3e-3,
    "Rprop": 1e-3,
    "ScheduleFreeAdamW": 0.01,
    "ScheduleFreeSGD": 1.0,
    "Scion": 3e-4,
    "SGD": 0.3,
    "Shampoo": 3e-3,
    "SignSGD": 3e-3,
    "Signum": 1e-3,
    "SimplifiedAdEMAMix": 3e-5,
    "SM3": 0.1,
    "SOAP": 3e-3,
    "Sophia": 1e-3,
    "StableAdamW": 3e-3,
    "Yogi": 0.01,
}
# Options that this network needs beside the rate. With the default of AcProp, an entry
# whose gradient was 0 so far takes a step that ruins it; with that of LBFGS, a step
# fits its own batch and ruins the others. The signs that Rprop counts turn by chance in
# small batches. In large batches least squares are solved without a matrix.
OPTIONS = {
    "AcProp": {"eps": 0.01},
    "GaussNewton": {"damping": 0.01, "momentum": 0.9, "dense_up_to": 2**22},
    "LBFGS": {"linesearch": eqxopt.BacktrackingLineSearch(slope_rtol=0.5)},
    "NewtonCG": {
        "damping": 0.1,
        "rank": 0,
        "cg_steps": 10,
        "linesearch": eqxopt.BacktrackingLineSearch(slope_rtol=0.5),
    },
    "LevenbergMarquardt": {"dense_up_to": 2**22},
    "Rprop": {"max_step_size": 0.01},
}
OPTIMIZERS = {name: getattr(eqxopt, name) for name in RATES}


class Network(eqx.Module):
    """Two convolutions, halving the image after each, and a linear layer."""

    convolutions: list[eqx.nn.Conv2d]
    linear: eqx.nn.Linear
    pool: eqx.nn.MaxPool2d

    def __init__(self, *, key: PRNGKeyArray):
        keys = jax.random.split(key, 3)
        self.convolutions = [
            eqx.nn.Conv2d(1, 16, kernel_size=3, padding=1, key=keys[0]),
            eqx.nn.Conv2d(16, 32, kernel_size=3, padding=1, key=keys[1]),
        ]
        self.linear = eqx.nn.Linear(32 * 2 * 2, 10, key=keys[2])
        self.pool = eqx.nn.MaxPool2d(kernel_size=2, stride=2)

    def __call__(self, image: Float[Array, "1 8 8"]) -> Float[Array, "10"]:
        x = image
        for convolution in self.convolutions:
            x = self.pool(jax.nn.relu(convolution(x)))
        return self.linear(x.reshape(-1))


def loss_fn(
    model: Network, images: Float[Array, "batch 1 8 8"], labels: Int[Array, " batch"]
) -> Float[Array, ""]:
    log_probs = jax.nn.log_softmax(jax.vmap(model)(images))
    return -jnp.mean(jnp.take_along_axis(log_probs, labels[:, None], axis=1))


@eqxopt.rowwise
def misfits(
    model: Network, image: Float[Array, "1 8 8"], label: Int[Array, ""]
) -> Float[Array, "10"]:
    return jax.nn.softmax(model(image)) - jax.nn.one_hot(label, 10)


@eqx.filter_jit
def train_step(model, opt, images, labels):
    loss, grads = eqx.filter_value_and_grad(loss_fn)(model, images, labels)
    value_fn = lambda model: loss_fn(model, images, labels)
    # Of these, most optimizers use only the gradients.
    residual_fn = lambda model: misfits(model, images, labels) / len(labels) ** 0.5
    model, opt = opt.apply(
        grads, model, value=loss, value_fn=value_fn, residual_fn=residual_fn
    )
    return model, opt, loss


@eqx.filter_jit
def accuracy(model, images, labels):
    return jnp.mean(jnp.argmax(jax.vmap(model)(images), axis=1) == labels)


def train(name: str, rate: float | None, epochs: int, batch_size: int, seed: int):
    """The losses of all steps and the accuracies after all epochs."""
    digits = load_digits()
    train_x, test_x, train_y, test_y = train_test_split(
        digits.images[:, None].astype(np.float32) / 16,
        digits.target.astype(np.int32),
        test_size=0.2,
        random_state=0,
        stratify=digits.target,
    )
    model = Network(key=jax.random.key(seed))
    first = rate if rate is not None else RATES.get(name, 1e-3)
    opt = OPTIMIZERS[name](first, **OPTIONS.get(name, {})).init(model)
    batches = np.random.default_rng(seed)
    losses, accuracies = [], []
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}  accuracy {task.fields[score]:.1%}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(name, total=epochs, loss=float("nan"), score=0.0)
        for _ in range(epochs):
            order = batches.permutation(len(train_x))
            for start in range(0, len(order) - batch_size + 1, batch_size):
                batch = order[start : start + batch_size]
                model, opt, loss = train_step(
                    model, opt, train_x[batch], train_y[batch]
                )
                losses.append(loss)
            evaluated = opt.eval_params(model)
            accuracies.append(float(accuracy(evaluated, test_x, test_y)))
            progress.update(task, advance=1, loss=float(loss), score=accuracies[-1])
    return first, np.asarray(jnp.stack(losses)), np.asarray(accuracies)


def draw(name: str, losses, accuracies, output: pathlib.Path) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    epochs = np.arange(1, len(losses) + 1) * len(accuracies) / len(losses)
    left.semilogy(epochs, losses, linewidth=0.5, color="C0", alpha=0.5)
    per_epoch = [np.mean(part) for part in np.array_split(losses, len(accuracies))]
    left.semilogy(np.arange(1, len(accuracies) + 1) - 0.5, per_epoch, color="C0")
    left.set(xlabel="epoch", ylabel="training loss", title=f"{name}: loss")
    right.plot(np.arange(1, len(accuracies) + 1), 100 * accuracies, color="C1")
    right.axhline(97, linestyle=":", color="grey")
    right.set(xlabel="epoch", ylabel="%", title=f"{name}: accuracy on held-out digits")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.savefig(output, dpi=150)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--optimizer", default="AdamW", help="a class name")
    parser.add_argument("--learning-rate", type=float, help="default: one that works")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=pathlib.Path, default="digits.png")
    args = parser.parse_args(arguments)
    if args.optimizer not in OPTIMIZERS:
        known = ", ".join(sorted(OPTIMIZERS))
        parser.error(f"unknown optimizer {args.optimizer!r}. The known ones: {known}")
    if args.epochs < 1 or not 1 <= args.batch_size <= 1437:
        parser.error("--epochs must be at least 1, and --batch-size from 1 to 1437")

    start = time.perf_counter()
    rate, losses, accuracies = train(
        args.optimizer, args.learning_rate, args.epochs, args.batch_size, args.seed
    )
    seconds = time.perf_counter() - start
    draw(args.optimizer, losses, accuracies, args.output)

    table = Table(title="Handwritten digits, 1,437 to train on and 360 held out")
    for column in (
        "optimizer",
        "rate",
        "epochs",
        "loss",
        "accuracy",
        "best",
        "seconds",
    ):
        table.add_column(column, justify="left" if column == "optimizer" else "right")
    table.add_row(
        args.optimizer,
        f"{rate:g}",
        str(args.epochs),
        f"{np.mean(losses[-len(losses) // args.epochs :]):.4f}",
        f"{accuracies[-1]:.1%}",
        f"{np.max(accuracies):.1%}",
        f"{seconds:.1f}",
    )
    console = Console()
    console.print(table)
    console.print(f"curves: {args.output}")
    return accuracies[-1]


if __name__ == "__main__":
    main()
