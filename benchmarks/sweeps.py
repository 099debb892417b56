"""`sweep` beside what people write without it: the same runs in a Python loop of `fit`,
and by hand in one program."""

import functools
import statistics
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

import eqxopt

from .timing import Figure, interleaved


STEPS, BATCH = 300, 64
RATES = [float(x) for x in np.geomspace(1e-5, 1.0, 32)]
DECAYS = [0.0, 0.01, 0.1, 1.0]


def _make_model(key):
    return eqx.nn.MLP(64, 10, width_size=32, depth=1, key=key)


def _loss(model, images, labels):
    log_probs = jax.nn.log_softmax(jax.vmap(model)(images))
    return -jnp.mean(jnp.take_along_axis(log_probs, labels[:, None], axis=1))


@functools.cache
def _data() -> tuple[jax.Array, jax.Array]:
    images, labels = load_digits(return_X_y=True)
    return jnp.asarray(images / 16, jnp.float32), jnp.asarray(labels, jnp.int32)


def _swept(points: dict[str, Any], key: jax.Array, **options: Any) -> eqxopt.Sweep:
    return eqxopt.sweep(
        _loss,
        _make_model,
        eqxopt.AdamW,
        points,
        _data(),
        key=key,
        steps=STEPS,
        batch_size=BATCH,
        progress=False,
        **options,
    )


def sweeps() -> list[Figure]:
    """128 runs of 300 steps on the digits, compiling included; and halving."""
    key = jax.random.key(0)
    points = {"learning_rate": RATES, "weight_decay": DECAYS}

    def ours():
        return _swept(points, key).score

    options = {"repeats": 3, "warm_up": 1, "before": jax.clear_caches}
    return [
        interleaved(
            "128 runs, beside 128 calls of `fit`", ours, _fits, bar=1 / 20, **options
        ),
        interleaved(
            "128 runs, beside one program by hand", ours, _by_hand, bar=1.0, **options
        ),
        *_halved(),
    ]


def _fits() -> np.ndarray:
    key = jax.random.key(0)
    last = []
    for rate in RATES:
        for decay in DECAYS:
            model = _make_model(key)
            opt = eqxopt.AdamW(rate, weight_decay=decay).init(model)
            *_, history = eqxopt.fit(
                _loss,
                model,
                opt,
                _data(),
                key=key,
                steps=STEPS,
                batch_size=BATCH,
                progress=False,
            )
            last.append(history.loss[-1])
    return np.array(last)


def _by_hand() -> jax.Array:
    images, labels = _data()
    params, static = eqx.partition(_make_model(jax.random.key(0)), eqx.is_array)

    def last(rate, decay):
        opt = eqxopt.AdamW(rate, weight_decay=decay).init(params)

        def step(carry, key):
            params, opt = carry
            rows = jax.random.randint(key, (BATCH,), 0, len(images))
            loss = lambda p: _loss(eqx.combine(p, static), images[rows], labels[rows])
            value, grads = jax.value_and_grad(loss)(params)
            return opt.apply(grads, params), value

        keys = jax.random.split(jax.random.key(1), STEPS)
        return jax.lax.scan(step, (params, opt), keys)[1][-1]

    every = jax.jit(jax.vmap(jax.vmap(last, (None, 0)), (0, None)))
    return every(jnp.asarray(RATES), jnp.asarray(DECAYS))


def _halved() -> list[Figure]:
    """Of five seeds, and how far the rates that halving finds are from the best."""
    points = {"learning_rate": RATES}
    kinds: dict[str, Callable[[jax.Array], eqxopt.Sweep]] = {
        "full": lambda key: _swept(points, key, chunk_size=4),
        "halved": lambda key: _swept(points, key, chunk_size=4, rungs=3, keep=1 / 3),
    }
    for run in kinds.values():
        run(jax.random.key(0))
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    factors = []
    for seed in range(1, 6):
        rates = {}
        for name, run in kinds.items():
            result = run(jax.random.key(seed))
            seconds[name].append(1000 * result.seconds)
            assert result.best is not None
            rates[name] = np.log(result.best["learning_rate"])
        factors.append(float(np.exp(abs(rates["full"] - rates["halved"]))))
    found = ", ".join(f"{factor:.2g}" for factor in factors)
    return [
        Figure(
            f"32 rates, halved: rates within factors of {found} of the best",
            statistics.median(seconds["halved"]),
            statistics.median(seconds["full"]),
            bar=1 / 3,
        )
    ]
