"""Draws the picture of a range test: `python docs/pictures/range_test.py`."""

import pathlib

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from sklearn.datasets import load_digits

import eqxopt


def loss_fn(model, images, labels):
    log_probs = jax.nn.log_softmax(jax.vmap(model)(images))
    return -jnp.mean(jnp.take_along_axis(log_probs, labels[:, None], axis=1))


def main() -> None:
    images, labels = load_digits(return_X_y=True)
    data = images.astype(np.float32) / 16, labels.astype(np.int32)
    model = eqx.nn.MLP(64, 10, width_size=32, depth=1, key=jax.random.key(0))
    result = eqxopt.range_test(
        loss_fn, model, eqxopt.AdamW, data, batch_size=64, key=jax.random.key(1)
    )
    print(result)
    with matplotlib.rc_context({"svg.hashsalt": "range_test"}):
        result.draw().savefig(
            pathlib.Path(__file__).with_suffix(".svg"),
            transparent=True,
            metadata={"Date": None},
        )


if __name__ == "__main__":
    main()
