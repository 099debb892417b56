"""Trains 128 networks at once, for 32 learning rates and 4 weight decays.

Prints the best pairs, and draws a heat map of the accuracies.

    python examples/sweep.py
"""

import argparse
import pathlib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import eqxopt


def loss_fn(network, images, labels):
    log_probs = jax.nn.log_softmax(jax.vmap(network)(images))
    return -jnp.mean(jnp.take_along_axis(log_probs, labels[:, None], axis=1))


def main(arguments: list[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rates", type=int, default=32, help="how many")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--output", type=pathlib.Path, default="sweep.png")
    args = parser.parse_args(arguments)
    images, labels = load_digits(return_X_y=True)
    images, labels = images.astype(np.float32) / 16, labels.astype(np.int32)
    data = train_test_split(images, labels, test_size=0.2, random_state=0)
    train_x, test_x, train_y, test_y = map(jnp.asarray, data)

    result = eqxopt.sweep(
        loss_fn,
        lambda key: eqx.nn.MLP(64, 10, width_size=32, depth=1, key=key),
        eqxopt.AdamW,
        {
            "learning_rate": np.geomspace(1e-5, 1.0, args.rates),
            "weight_decay": [0.0, 0.01, 0.1, 1.0],
        },
        (train_x, train_y),
        key=jax.random.key(0),
        steps=args.steps,
        batch_size=64,
        evaluate=lambda network: jnp.mean(
            jnp.argmax(jax.vmap(network)(test_x), axis=1) == test_y
        ),
        maximize=True,
    )
    print(result)
    result.draw().savefig(args.output, dpi=150, transparent=True)
    return float(np.max(result.score))


if __name__ == "__main__":
    main()
