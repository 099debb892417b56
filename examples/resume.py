"""Trains a network with batch normalization and dropout on handwritten digits, in a run
that can be stopped at any moment and goes on where it was.

Press Ctrl-C, or kill the process, and start it again: the result is that of an
uninterrupted run, to the last bit.

    python examples/resume.py --checkpoint digits.npz
"""

import argparse
import pathlib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import eqxopt


BATCH_SIZE = 64


class Network(eqx.Module):
    """Two convolutions with batch normalization, dropout, and a linear layer."""

    convolutions: list[eqx.nn.Conv2d]
    norms: list[eqx.nn.BatchNorm]
    pool: eqx.nn.MaxPool2d
    dropout: eqx.nn.Dropout
    linear: eqx.nn.Linear

    def __init__(self, key: PRNGKeyArray):
        keys = jax.random.split(key, 3)
        self.convolutions = [
            eqx.nn.Conv2d(1, 16, kernel_size=3, padding=1, key=keys[0]),
            eqx.nn.Conv2d(16, 32, kernel_size=3, padding=1, key=keys[1]),
        ]
        self.norms = [
            eqx.nn.BatchNorm(channels, "batch", momentum=0.9, mode="batch")
            for channels in (16, 32)
        ]
        self.pool = eqx.nn.MaxPool2d(kernel_size=2, stride=2)
        self.dropout = eqx.nn.Dropout(0.3)
        self.linear = eqx.nn.Linear(32 * 2 * 2, 10, key=keys[2])

    def __call__(
        self,
        image: Float[Array, "1 8 8"],
        state: eqx.nn.State,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "10"], eqx.nn.State]:
        x = image
        for convolution, norm in zip(self.convolutions, self.norms):
            x, state = norm(convolution(x), state)
            x = self.pool(jax.nn.relu(x))
        return self.linear(self.dropout(x.reshape(-1), key=key)), state


def loss_fn(
    model: Network,
    state: eqx.nn.State,
    images: Float[Array, "batch 1 8 8"],
    labels: Int[Array, " batch"],
    key: PRNGKeyArray,
):
    keys = jax.random.split(key, len(images))
    logits, state = jax.vmap(
        model, axis_name="batch", in_axes=(0, None, 0), out_axes=(0, None)
    )(images, state, keys)
    log_probs = jax.nn.log_softmax(logits)
    loss = -jnp.mean(jnp.take_along_axis(log_probs, labels[:, None], axis=1))
    return loss, state, {"accuracy": jnp.mean(jnp.argmax(logits, axis=1) == labels)}


@eqx.filter_jit
def held_out_accuracy(model, state, images, labels):
    model = eqx.nn.inference_mode(model)
    logits, _ = jax.vmap(model, in_axes=(0, None), out_axes=(0, None))(images, state)
    return jnp.mean(jnp.argmax(logits, axis=1) == labels)


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", type=pathlib.Path, default="digits.npz")
    parser.add_argument("--epochs", type=int, default=30)
    args = parser.parse_args(arguments)

    digits = load_digits()
    train_x, test_x, train_y, test_y = train_test_split(
        digits.images[:, None].astype(np.float32) / 16,
        digits.target.astype(np.int32),
        test_size=0.2,
        random_state=0,
        stratify=digits.target,
    )
    model_key, run_key = jax.random.split(jax.random.key(0))
    model, state = eqx.nn.make_with_state(Network)(model_key)
    per_epoch = len(train_x) // BATCH_SIZE
    steps = args.epochs * per_epoch
    rate = eqxopt.schedules.CosineDecay(3e-3, steps)
    opt = eqxopt.AdamW(rate, weight_decay=0.05).init(model)

    if args.checkpoint.exists():
        model, opt, state = eqxopt.load(args.checkpoint, (model, opt, state))
        print(f"{args.checkpoint}: going on after step {opt.count}")

    def callback(model, opt, state, history):
        eqxopt.save(args.checkpoint, (model, opt, state))
        accuracy = held_out_accuracy(opt.eval_params(model), state, test_x, test_y)
        print(
            f"epoch {int(opt.count) // per_epoch:3d}  "
            f"loss {history.loss[-per_epoch:].mean():.4f}  "
            f"accuracy {history.aux['accuracy'][-per_epoch:].mean():.1%}, "
            f"held out {accuracy:.1%}"
        )

    model, opt, state, history = eqxopt.fit(
        loss_fn,
        model,
        opt,
        (train_x, train_y),
        state=state,
        batch_size=BATCH_SIZE,
        key=run_key,
        has_aux=True,
        steps=steps - int(opt.count),
        steps_per_call=per_epoch,
        progress=False,
        callback=callback,
    )
    eqxopt.save(args.checkpoint, (model, opt, state))
    if history.stopped:
        print(f"{history.stopped}: saved {args.checkpoint} after step {opt.count}")
    return model, opt, state


if __name__ == "__main__":
    main()
