"""What one of several processes does in `test_processes.py`."""

import json
import os
import pathlib
import signal
import sys
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

import eqxopt


ROWS, BATCH = 64, 16


def model():
    return eqx.nn.MLP(8, 2, 16, 1, key=jax.random.key(0))


def loss(model, x, y):
    return jnp.mean((jax.vmap(model)(x) - y) ** 2)


def data():
    x = np.asarray(jax.random.normal(jax.random.key(1), (ROWS, 8)))
    return x, np.sin(x[:, :2])


def mesh():
    return jax.make_mesh((jax.device_count(),), ("data",), (AxisType.Auto,))


def start(layout="data"):
    return eqxopt.shard(model(), eqxopt.AdamW(0.01), mesh(), layout)


def fit(net, opt, batches, **options):
    defaults = {"progress": False, "steps_per_call": 4}
    if isinstance(batches, tuple):
        defaults |= {"batch_size": BATCH, "key": jax.random.key(2), "steps": 8}
    return eqxopt.fit(loss, net, opt, batches, **defaults | options)


def own_rows(x):
    """The rows of a batch that this process reads."""
    share = len(x) // jax.process_count()
    return x[jax.process_index() * share :][:share]


def batches(number):
    """A loader of this process. All together they give the rows of `data` in order."""
    x, y = data()
    for i in range(number):
        rows = slice(16 * (i % 4), 16 * (i % 4) + 16)
        yield own_rows(x[rows]), own_rows(y[rows])


def numbers(net):
    """All parameters, as a checksum that every process can compute."""

    @jax.jit
    def total(arrays):
        weights = [jnp.arange(1.0, x.size + 1).reshape(x.shape) for x in arrays]
        return sum(jnp.sum(w * x) for w, x in zip(weights, arrays))

    return float(total(jax.tree.leaves(eqx.filter(net, eqx.is_array))))


def result(net, opt, history):
    return {
        "numbers": numbers(net),
        "count": int(opt.count),
        "steps": len(history.loss),
        "loss": [float(x) for x in history.loss[-2:]],
        "stopped": history.stopped,
    }


def first():
    return jax.process_index() == 0


class Tasks:
    """Each is run by all processes; its result is reported by each."""

    def memory(folder):
        return result(*fit(*start(), data()))

    def fsdp(folder):
        return result(*fit(*start("fsdp"), data()))

    def shards(folder):
        rows = NamedSharding(mesh(), P("data"))
        own = [
            jax.make_array_from_process_local_data(rows, own_rows(x)) for x in data()
        ]
        return result(*fit(*start(), tuple(own)))

    def loader(folder):
        return result(*fit(*start(), batches(8)))

    def uneven_loaders(folder):
        """One has fewer batches, and all stop where it ends."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            got = result(*fit(*start(), batches(6 if first() else 9), steps=20))
        return got | {"warned": [str(x.message) for x in caught]}

    def interrupt(folder):
        """One is sent a signal, and all stop after the same step."""

        def callback(net, opt, history):
            if len(history.loss) == 8 and not first():
                os.kill(os.getpid(), signal.SIGTERM)

        return result(*fit(*start(), data(), steps=400, callback=callback))

    def callback(folder):
        says = lambda net, opt, history: len(history.loss) == 8 and not first()
        return result(*fit(*start(), data(), steps=400, callback=says))

    def callback_raises(folder):
        def callback(net, opt, history):
            if not first():
                raise ZeroDivisionError("here")

        return error(lambda: fit(*start(), data(), callback=callback))

    def loader_raises(folder):
        def broken():
            yield from batches(5)
            if not first():
                raise ZeroDivisionError("here")
            yield from batches(4)

        return error(lambda: fit(*start(), broken()))

    def nonfinite(folder):
        def poisoned():
            for i, (x, y) in enumerate(batches(12)):
                yield x, y * (np.nan if i == 5 and not first() else 1.0)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return result(*fit(*start(), poisoned(), stop_on_nonfinite=True))

    def other_data(folder):
        x, y = data()
        return error(lambda: fit(*start(), (x + jax.process_index(), y)))

    def local_batch(folder):
        step = eqxopt.make_step(loss)
        return error(lambda: step(*start(), *data()))

    def global_batch(folder):
        rows = NamedSharding(mesh(), P("data"))
        net, opt = start("zero-1")
        step = eqxopt.make_step(loss)
        for x, y in batches(4):
            put = lambda x: jax.make_array_from_process_local_data(rows, x)
            net, opt, value = step(net, opt, put(x), put(y))
        return {"numbers": numbers(net), "loss": float(value)}

    def save(folder):
        """Half of a run, in shards, to a file."""
        net, opt, history = fit(*start("fsdp"), data(), steps=4)
        eqxopt.save(folder / "run.npz", (net, opt))
        return {"there": (folder / "run.npz").exists()}

    def load(folder):
        """The other half, perhaps in another number of processes and another layout."""
        like = start("zero-1")
        net, opt = eqxopt.load(folder / "run.npz", like)
        arrays = eqx.filter((like, (net, opt)), eqx.is_array)
        places = [[x.sharding for x in jax.tree.leaves(tree)] for tree in arrays]
        kept = {"kept": places[0] == places[1]}
        return result(*fit(net, opt, data(), steps=4)) | kept

    def killed(folder):
        """One dies in the middle of training."""

        def callback(net, opt, history):
            if len(history.loss) == 8 and not first():
                os.kill(os.getpid(), signal.SIGKILL)

        return error(lambda: fit(*start(), data(), steps=400, callback=callback))


def error(function):
    try:
        function()
    except Exception as error:
        notes = getattr(error, "__notes__", [])
        reached = getattr(error, "reached", None)
        return {
            "error": f"{type(error).__name__}: {error}",
            "notes": notes,
            "reached": None if reached is None else len(reached[-1].loss),
        }
    return {"error": None}


def main():
    number, count, port, folder, *names = sys.argv[1:]
    if int(count) > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(
            f"127.0.0.1:{port}", int(count), int(number), heartbeat_timeout_seconds=10
        )
    for name in names:
        got = getattr(Tasks, name)(pathlib.Path(folder))
        print(json.dumps({name: got}), flush=True)
        if name == "killed":  # at its end JAX would wait for the dead one
            os._exit(0)


if __name__ == "__main__":
    main()
