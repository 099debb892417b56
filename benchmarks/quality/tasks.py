"""Small tasks whose data ship with packages, or are drawn from a known distribution."""

import itertools
import pydoc_data.topics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.model_selection import train_test_split

import eqxopt
from examples.sharded import Transformer

from ..pinns import Poisson


@dataclass(frozen=True)
class Task:
    """What is trained, for how many steps, and how a trained model is judged.

    - `what`: the task in a few words.
    - `make_model`: from a key to a model.
    - `loss_fn`, `data`, `batch_size`: as for `eqxopt.fit`. Without a batch size the
        batch is all the data.
    - `training_loss`: the loss of a model on all the data, or the exact loss.
    - `held_out`: the metric of a model on other data, called `metric`.
    - `residuals`: `loss_fn` gives residuals.
    - `noisy`: gradients differ from step to step at one and the same model.
    - `matrices`: the model has matrices.
    - `float64`: it trains in float64.
    """

    what: str
    make_model: Callable[[PRNGKeyArray], Any]
    loss_fn: Callable[..., Any]
    data: Any
    batch_size: int | None
    steps: int
    training_loss: Callable[[Any], Array]
    held_out: Callable[[Any], Array]
    metric: str
    larger_is_better: bool = False
    residuals: bool = False
    noisy: bool = True
    matrices: bool = True
    float64: bool = False


def misfit(model: Any, x: Float[Array, "batch n"], y: Int[Array, " batch"]):
    """The divergence from labels that are smoothed by a tenth. Its lowest value is 0,
    and no network reaches it by growing without end."""
    log_probs = jax.nn.log_softmax(jax.vmap(model)(x))
    n = log_probs.shape[1]
    right, wrong = np.float32(0.9 + 0.1 / n), np.float32(0.1 / n)
    wanted = jnp.where(jnp.arange(n)[None] == y[:, None], right, wrong)
    return jnp.mean(jnp.sum(wanted * (jnp.log(wanted) - log_probs), axis=1))


def accuracy(model: Any, x: Float[Array, "batch n"], y: Int[Array, " batch"]):
    return jnp.mean(jnp.argmax(jax.vmap(model)(x), axis=1) == y)


def split(x: Any, y: Any, *, classes: bool) -> list[Array]:
    """Columns of mean 0 and variance 1; a fifth of the rows is held out."""
    x = ((x - x.mean(0)) / (x.std(0) + 1e-6)).astype(np.float32)
    y = y.astype(np.int32 if classes else np.float32)
    stratify = y if classes else None
    parts = train_test_split(x, y, test_size=0.2, random_state=0, stratify=stratify)
    return [jnp.asarray(part) for part in parts]


def classification(
    what: str, load: Callable[..., Any], make_model: Any, batch_size: int, steps: int
) -> Task:
    x, held_x, y, held_y = split(*load(return_X_y=True), classes=True)
    return Task(
        what,
        make_model,
        misfit,
        (x, y),
        batch_size,
        steps,
        lambda model: misfit(model, x, y),
        lambda model: accuracy(model, held_x, held_y),
        "accuracy",
        larger_is_better=True,
    )


def digits_mlp() -> Task:
    make = lambda key: eqx.nn.MLP(64, 10, width_size=32, depth=1, key=key)
    what = "1,437 handwritten digits, a network with one hidden layer of 32"
    return classification(what, load_digits, make, 64, 300)


class Convolution(eqx.Module):
    """3 by 3, padded, and of every other place. It is a product of matrices, because
    XLA's convolution is slow on a CPU if models are batched."""

    weight: Float[Array, "out in 3 3"]
    bias: Float[Array, " out"]

    def __init__(self, channels: int, out: int, key: PRNGKeyArray):
        size = (9 * channels) ** -0.5
        shape = (out, channels, 3, 3)
        self.weight = jax.random.uniform(key, shape, minval=-size, maxval=size)
        self.bias = jnp.zeros(out)

    def __call__(self, image: Float[Array, "in side side"]):
        n = image.shape[-1] // 2
        padded = jnp.pad(image, ((0, 0), (1, 1), (1, 1)))
        places = itertools.product(range(3), repeat=2)
        parts = [padded[:, i : i + 2 * n : 2, j : j + 2 * n : 2] for i, j in places]
        columns = jnp.stack(parts, axis=1).reshape(-1, n * n)
        product = self.weight.reshape(len(self.weight), -1) @ columns
        return product.reshape(-1, n, n) + self.bias[:, None, None]


class ConvolutionalNetwork(eqx.Module):
    convolutions: list[Convolution]
    linear: eqx.nn.Linear

    def __init__(self, key: PRNGKeyArray):
        keys = jax.random.split(key, 3)
        self.convolutions = [Convolution(1, 8, keys[0]), Convolution(8, 16, keys[1])]
        self.linear = eqx.nn.Linear(16 * 2 * 2, 10, key=keys[2])

    def __call__(self, pixels: Float[Array, "64"]) -> Float[Array, "10"]:
        x = pixels.reshape(1, 8, 8)
        for convolution in self.convolutions:
            x = jax.nn.relu(convolution(x))
        return self.linear(x.reshape(-1))


def digits_cnn() -> Task:
    what = "1,437 handwritten digits, two convolutions and a linear layer"
    return classification(what, load_digits, ConvolutionalNetwork, 64, 300)


class Autoencoder(eqx.Module):
    encoder: eqx.nn.MLP
    decoder: eqx.nn.MLP

    def __init__(self, key: PRNGKeyArray):
        keys = jax.random.split(key)
        self.encoder = eqx.nn.MLP(64, 8, 48, 1, key=keys[0])
        self.decoder = eqx.nn.MLP(8, 64, 48, 1, key=keys[1])

    def __call__(self, pixels: Float[Array, "64"]) -> Float[Array, "64"]:
        return jax.nn.sigmoid(self.decoder(self.encoder(pixels)))


def digits_autoencoder() -> Task:
    pixels = (load_digits().data / 16).astype(np.float32)
    parts = train_test_split(pixels, test_size=0.2, random_state=0)
    train, held = (jnp.asarray(x) for x in parts)
    error = lambda model, x: jnp.mean(jnp.square(jax.vmap(model)(x) - x))
    return Task(
        "1,437 handwritten digits, through 8 numbers and back",
        Autoencoder,
        error,
        train,
        64,
        400,
        lambda model: error(model, train),
        lambda model: error(model, held),
        "mean square of the error",
    )


def regression() -> Task:
    x, y = load_diabetes(return_X_y=True)
    x, held_x, y, held_y = split(x, (y - y.mean()) / y.std(), classes=False)

    differences = eqxopt.rowwise(lambda model, x, y: model(x) - y)

    def residuals(model, x, y):
        return differences(model, x, y) / np.float32(len(x) ** 0.5)

    half_mean = lambda model, x, y: 0.5 * jnp.sum(jnp.square(residuals(model, x, y)))
    return Task(
        "353 patients, 10 numbers each, and how a disease went on; full batches",
        lambda key: eqx.nn.MLP(10, "scalar", 12, 1, jnp.tanh, key=key),
        residuals,
        (x, y),
        None,
        300,
        lambda model: half_mean(model, x, y),
        lambda model: jnp.sqrt(2 * half_mean(model, held_x, held_y)),
        "root mean square of the error",
        residuals=True,
        noisy=False,
    )


def tabular_classes() -> Task:
    make = lambda key: eqx.nn.MLP(30, 2, width_size=32, depth=1, key=key)
    what = "455 patients, 30 numbers each, and one of two diagnoses"
    return classification(what, load_breast_cancer, make, 32, 150)


def characters() -> Task:
    context = 24
    whole = "".join(pydoc_data.topics.topics.values())
    known = sorted(set(whole))
    number = {character: i for i, character in enumerate(known)}
    codes = np.asarray([number[character] for character in whole], np.int32)
    count = len(codes) // (context + 1)
    windows = jnp.asarray(codes[: count * (context + 1)].reshape(count, -1))
    # What is held out is the end of the text, so that no window is near one of it.
    train, held = windows[: int(0.9 * count)], windows[int(0.9 * count) :]

    def loss_fn(model, text):
        log_probs = jax.nn.log_softmax(jax.vmap(model)(text[:, :-1]))
        return -jnp.mean(jnp.take_along_axis(log_probs, text[:, 1:, None], axis=2))

    return Task(
        "the characters of Python's help, a transformer of one layer of 32",
        lambda key: Transformer(len(known), context, 32, 1, key),
        loss_fn,
        train,
        8,
        200,
        lambda model: loss_fn(model, train[::128]),
        lambda model: loss_fn(model, held[::8]),
        "cross-entropy",
    )


def poisson() -> Task:
    with jax.enable_x64(True):
        equation = Poisson(10)
    options = {"activation": jnp.tanh, "dtype": float}
    half_squares = lambda model: (
        0.5
        * sum(
            jnp.sum(jnp.square(r)) for r in jax.tree.leaves(equation.residuals(model))
        )
    )
    return Task(
        "Poisson's equation, a network with two hidden layers of 16, in float64",
        lambda key: eqx.nn.MLP(2, "scalar", 16, 2, key=key, **options),
        equation.residuals,
        None,
        None,
        300,
        half_squares,
        equation.error,
        "relative error in L2",
        residuals=True,
        noisy=False,
        float64=True,
    )


def quadratic() -> Task:
    """Its gradients are as noisy along a direction as the curvature there is high, as
    those of a linear model are. Its minimum is not at 0, to which some methods shrink
    parameters."""
    n = 100
    scales = jnp.geomspace(1.0, 1e-3, n)
    keys = jax.random.split(jax.random.key(0))
    basis, _ = jnp.linalg.qr(jax.random.normal(keys[0], (n, n)))
    centre = jax.random.normal(keys[1], (n,))
    exact = lambda x: 0.5 * jnp.sum(scales * jnp.square((x - centre) @ basis))

    def loss_fn(x, key):
        noise = 0.3 * jnp.sqrt(scales) * jax.random.normal(key, (n,))
        # Only the gradient is noisy, so that the loss can be read.
        return exact(x) + jnp.sum((x - jax.lax.stop_gradient(x)) @ basis * noise)

    return Task(
        "100 numbers, curvatures from 0.001 to 1 in no direction of an axis",
        lambda key: jax.random.normal(key, (n,)),
        loss_fn,
        None,
        None,
        500,
        exact,
        lambda x: jnp.sqrt(jnp.mean(jnp.square(x - centre))),
        "distance from the minimum",
        matrices=False,
    )


class Factors(eqx.Module):
    left: Float[Array, "rows rank"]
    right: Float[Array, "columns rank"]

    def __init__(self, rows: int, columns: int, rank: int, key: PRNGKeyArray):
        keys = jax.random.split(key)
        self.left = 0.1 * jax.random.normal(keys[0], (rows, rank))
        self.right = 0.1 * jax.random.normal(keys[1], (columns, rank))

    def at(self, i: Int[Array, ""], j: Int[Array, ""]) -> Float[Array, ""]:
        return jnp.sum(self.left[i] * self.right[j])


def factorization() -> Task:
    rows, columns, rank = 60, 40, 6
    keys = jax.random.split(jax.random.key(0), 4)
    left, _ = jnp.linalg.qr(jax.random.normal(keys[0], (rows, rank)))
    right, _ = jnp.linalg.qr(jax.random.normal(keys[1], (columns, rank)))
    # Singular values over a factor of 30, and a mean square near 1.
    sizes = jnp.geomspace(1.0, 1 / 30, rank)
    sizes = sizes * jnp.sqrt(rows * columns / jnp.sum(jnp.square(sizes)))
    matrix = left @ jnp.diag(sizes) @ right.T
    matrix = matrix + 0.02 * jax.random.normal(keys[2], matrix.shape)
    order = jax.random.permutation(keys[3], rows * columns)
    entries = lambda places: (
        places // columns,
        places % columns,
        matrix.reshape(-1)[places],
    )
    known, held = entries(order[: rows * columns // 2]), entries(order[-240:])

    def residuals(model, i, j, values):
        at = jax.vmap(Factors.at, (None, 0, 0))
        return (at(model, i, j) - values) / np.float32(len(values) ** 0.5)

    half_squares = lambda model, entries: (
        0.5 * jnp.sum(jnp.square(residuals(model, *entries)))
    )
    return Task(
        "a matrix of 60 by 40 of rank 6 with noise, of which half is known; full "
        "batches",
        lambda key: Factors(rows, columns, rank, key),
        residuals,
        known,
        None,
        400,
        lambda model: half_squares(model, known),
        lambda model: jnp.sqrt(2 * half_squares(model, held)),
        "root mean square of the error",
        residuals=True,
        noisy=False,
    )


TASKS: dict[str, Callable[[], Task]] = {
    "digits, MLP": digits_mlp,
    "digits, convolutions": digits_cnn,
    "digits, autoencoder": digits_autoencoder,
    "regression": regression,
    "classification": tabular_classes,
    "characters": characters,
    "Poisson": poisson,
    "noisy quadratic": quadratic,
    "matrix factorization": factorization,
}
