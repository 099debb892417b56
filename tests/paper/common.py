"""What a transcription looks like, and what transcriptions share."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

import eqxopt


STEPS = 25
MATRICES = ((4, 3),)
LAYERS = ((3,), (4, 3), (2, 2, 3))
KERNELS = ((5, 4), (3, 4), (3, 2, 2))

Gradient = Callable[[np.ndarray], np.ndarray]
# From the parameter at the start and the gradient of each step, the parameter after
# each step.
Transcription = Callable[..., Iterator[np.ndarray]]


def waves(rng: np.random.Generator, shape: tuple[int, ...]) -> list[Gradient]:
    """Of a loss that is not convex and moves with the step."""
    shifts = rng.normal(size=(STEPS, *shape))
    return [lambda x, a=a: np.sin(3 * x - a) * np.abs(a) for a in shifts]


def noise(rng: np.random.Generator, shape: tuple[int, ...]) -> list[Gradient]:
    """Mostly random, so that eigenvalues are apart and no matrix is nearly singular."""
    shifts = rng.normal(size=(STEPS, *shape))
    return [lambda x, a=a: a + 0.2 * x for a in shifts]


@dataclass(frozen=True)
class Pair:
    """An optimizer and its transcription.

    - `make`: makes the optimizer, inside the test and in its precision.
    - `paper`: the transcription, for one parameter.
    - `shapes`: one optimizer trains a parameter of each shape.
    - `gradients`: makes the gradients of a parameter, one a step.
    - `start`: the size of the parameters at the start.
    - `drawn`: gives what is drawn at random in a step for each parameter, from the
        optimizers before and after it. The transcription takes those of its parameter
        as the last argument.
    """

    make: Callable[[], eqxopt.AbstractOptimizer]
    paper: Transcription
    shapes: tuple[tuple[int, ...], ...] = MATRICES
    gradients: Callable[..., list[Gradient]] = waves
    start: float = 1.0
    drawn: Callable[..., list] | None = None


def rms(x):
    return np.sqrt(np.mean(x**2))


def as_matrix(x):
    """A kernel as the matrix of its outputs, each a row."""
    return x.reshape(x.shape[0], -1)


def flattened(paper: Transcription) -> Transcription:
    """A transcription for matrices, for kernels too."""

    def run(x, gradients):
        on_matrices = [
            lambda m, g=g: as_matrix(g(m.reshape(x.shape))) for g in gradients
        ]
        for m in paper(as_matrix(x), on_matrices):
            yield m.reshape(x.shape)

    return run


def short_sides(x, limit):
    """Which of its two sides a matrix is preconditioned on."""
    return [n <= limit for n in x.shape]


def adam(x, gradients, lr, b1, b2, eps):
    m, v = np.zeros_like(x), np.zeros_like(x)
    for t, gradient in enumerate(gradients, 1):
        g = gradient(x)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        x = x - lr * m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps)
        yield x


def default_fallback(x, gradients, lr):
    return adam(x, gradients, lr, 0.9, 0.95, 1e-8)


def newton_schulz(m, eps, steps=5):
    a, b, c = 3.4445, -4.775, 2.0315
    x = m.T if len(m) > len(m[0]) else m
    x = x / (np.linalg.norm(x) + eps)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if len(m) > len(m[0]) else x
