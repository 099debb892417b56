"""What devices send each other in one update, for every optimizer, on eight parts of
the CPU; and the time of a step in several processes."""

import json
import os
import pathlib
import re
import socket
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jax.sharding import AxisType

import eqxopt

from .report import GREY, HELD, in_grey, markdown


MODES = {
    "8, auto": ((8,), AxisType.Auto),
    "8, explicit": ((8,), AxisType.Explicit),
    "2 × 4, auto": ((2, 4), AxisType.Auto),
    "2 × 4, explicit": ((2, 4), AxisType.Explicit),
}
OPERATIONS = (
    "all-gather all-to-all all-reduce reduce-scatter collective-permute".split()
)
SHAPE = re.compile(r"([a-z]+[0-9]+|pred)\[([0-9,]*)\]")
STARTS = re.compile(rf" = (.*?) (?:{'|'.join(OPERATIONS)})(?:-start)?\(")
PROCESSES = (1, 2, 4)
# Their inverse Hessian of these parameters would have gigabytes.
DENSE = {"BFGS", "SSBFGS", "SSBroyden"}


@dataclass(frozen=True)
class Devices:
    """- `updates`: what each optimizer sends in each mode, or why it cannot be.
    - `times`: the milliseconds of a step by the number of processes.
    """

    updates: list[dict[str, Any]]
    times: dict[int, float]

    def table(self) -> str:
        header = {"optimizer": False, "state on a device": True}
        header |= dict.fromkeys(MODES, True) | {"compiled": True}
        rows = []
        for row in self.updates:
            cells = [_cell(row["modes"][mode]) for mode in MODES]
            share = f"{row['share']:.3f}"
            rows.append([row["optimizer"], share, *cells, str(row["compiled"])])
        times = [[str(n), f"{ms:.3g}"] for n, ms in self.times.items()]
        return (
            markdown(header, rows)
            + "\n\n"
            + markdown({"processes": True, "ms a step": True}, times)
        )

    def verdict(self) -> str:
        large = [x["optimizer"] for x in self.updates if x["share"] > 0.2]
        again = [x["optimizer"] for x in self.updates if x["compiled"] > 1]
        return (
            f"More than 0.2 of the state on a device: {', '.join(large) or 'none'}. "
            f"Compiled more than once: {', '.join(again) or 'none'}. Left out, since "
            f"they are for small models: {', '.join(sorted(DENSE))}."
        )

    def rows(self) -> list[dict[str, Any]]:
        return [*self.updates, {"times": self.times}]

    def draw(self, output: pathlib.Path) -> None:
        names = [row["optimizer"] for row in self.updates][::-1]
        figure, every = plt.subplots(
            1,
            2,
            figsize=(8, 0.15 * len(names) + 1.2),
            layout="constrained",
            sharey=True,
        )
        for axes, mode in zip(every, ("8, auto", "2 × 4, auto")):
            sent = [row["modes"][mode].get("bytes", 0) for row in self.updates][::-1]
            axes.barh(range(len(names)), np.array(sent) / 1e3, color=HELD)
            axes.set_xscale("symlog", linthresh=1)
            axes.set(title=mode, xlabel="kB in one update", ylim=(-1, len(names)))
            axes.title.set_color(GREY)
            in_grey(axes)
        every[0].set_yticks(range(len(names)), names, fontsize=6)
        figure.savefig(output, transparent=True, metadata={"Date": None})
        plt.close(figure)


def _cell(mode: dict[str, Any]) -> str:
    if "error" in mode:
        return mode["error"]
    return f"{mode['messages']} ({mode['bytes'] / 1e3:.3g} kB)"


def devices(
    names: Iterable[str] | None = None, processes: Iterable[int] = PROCESSES
) -> Devices:
    """Measured in processes of its own, which have the devices."""
    from .quality.optimizers import PLAIN

    names = names or [name for name in PLAIN if name not in DENSE]
    (updates,) = _run(8, ["updates", *names], 1)
    # All wait for the last.
    times = {n: max(_run(4 // n, ["time"], n)) for n in processes}
    return Devices(updates, times)


def _run(parts: int, arguments: list[str], count: int) -> list[Any]:
    """What each of `count` processes with that many devices prints."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = f"--xla_force_host_platform_device_count={parts}"
    if arguments[0] != "time":  # what devices send is the same
        flags += " --xla_backend_optimization_level=0"
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    start = [sys.executable, "-m", "benchmarks.devices"]
    running = [
        subprocess.Popen(
            [*start, str(i), str(count), str(port), *arguments],
            env=env,
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(count)
    ]
    outputs = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise RuntimeError("a process of the benchmark failed")
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def parameters(mesh: jax.sharding.Mesh) -> dict[str, jax.Array]:
    """Six matrices of one size and three of another, and a vector."""
    shapes = {f"wide{i}": (256, 128) for i in range(6)}
    shapes |= {f"square{i}": (128, 128) for i in range(3)} | {"vector": (128,)}
    keys = jax.random.split(jax.random.key(0), len(shapes))
    axes = mesh.axis_names

    def place(shape: tuple[int, ...]) -> jax.sharding.NamedSharding:
        return jax.NamedSharding(mesh, jax.P(*axes[: len(shape)]))

    return {
        name: jax.device_put(jax.random.normal(key, shape), place(shape))
        for key, (name, shape) in zip(keys, shapes.items())
    }


def loss_fn(params: Any) -> jax.Array:
    return sum(jnp.mean(jnp.cos(x)) for x in jax.tree.leaves(params))


def residual_fn(params: Any) -> Any:
    return jax.tree.map(jnp.cos, params)


def step(grads: Any, params: Any, opt: Any) -> Any:
    return opt.apply(
        grads,
        params,
        value=loss_fn(params),
        value_fn=loss_fn,
        residual_fn=residual_fn,
    )


def sent(text: str) -> dict[str, int]:
    """The messages in a compiled program, and the bytes of what they make."""
    results = STARTS.findall(text)
    sizes = [
        np.prod([int(n) for n in dims.split(",") if n]) * _width(kind)
        for result in results
        for kind, dims in SHAPE.findall(result)
    ]
    return {"messages": len(results), "bytes": int(sum(sizes))}


def _width(kind: str) -> int:
    return 1 if kind == "pred" else int(re.sub("[a-z]", "", kind)) // 8


def updates_of(name: str) -> dict[str, Any]:
    # It loads data, and with them JAX, which several processes must not do too early.
    from .quality.optimizers import PLAIN

    modes, opt, params = {}, None, None
    for mode, (shape, kind) in MODES.items():
        names = ("data", "model")[: len(shape)]
        mesh = jax.make_mesh(shape, names, (kind,) * len(shape))
        params = parameters(mesh)
        try:
            opt = PLAIN[name].make(1e-2, 100).init(params)
            text = jax.jit(step).lower(params, params, opt).compile().as_text()
            modes[mode] = sent(text)
        except Exception as error:
            modes[mode] = {"error": type(error).__name__}
    mesh = jax.make_mesh((8,), ("data",), (AxisType.Auto,))
    params = parameters(mesh)
    opt = PLAIN[name].make(1e-2, 100).init(params)
    state = [x for x in jax.tree.leaves(opt.state) if x.ndim]
    whole = sum(x.nbytes for x in state)
    own = sum(x.addressable_shards[0].data.nbytes for x in state)
    return {
        "optimizer": name,
        "share": round(own / max(whole, 1), 3),
        "modes": modes,
        "compiled": _compiled(params, opt, PLAIN[name].needs == "residuals"),
    }


def _compiled(params: Any, opt: Any, residuals: bool) -> int:
    """How often three steps compile."""
    traces = []

    def traced(params: Any) -> Any:
        traces.append(None)
        return residual_fn(params) if residuals else loss_fn(params)

    train = eqxopt.make_step(traced, residuals=residuals)
    counts = []
    for _ in range(3):
        params, opt, _ = train(params, opt)
        counts.append(len(traces))
    return 1 + (counts[1] > counts[0]) + (counts[2] > counts[1])


def time_of_step() -> float:
    """The median milliseconds of a step of a network on four devices."""
    import equinox as eqx

    mesh = jax.make_mesh((jax.device_count(),), ("data",), (AxisType.Auto,))
    model = eqx.nn.MLP(256, 16, 512, 3, key=jax.random.key(0))
    model, opt = eqxopt.shard(model, eqxopt.AdamW(1e-3), mesh)
    rows = jax.NamedSharding(mesh, jax.P("data"))
    own = np.random.default_rng(jax.process_index())
    size = 512 // jax.process_count()
    x = jax.make_array_from_process_local_data(
        rows, own.normal(size=(size, 256)).astype(np.float32)
    )
    train = eqxopt.make_step(lambda model, x: jnp.mean(jax.vmap(model)(x) ** 2))
    seconds = []
    for _ in range(40):
        start = time.perf_counter()
        model, opt, loss = train(model, opt, x)
        jax.block_until_ready((model, opt, loss))
        seconds.append(time.perf_counter() - start)
    return 1e3 * statistics.median(seconds[10:])


def main() -> None:
    number, count, port, what, *names = sys.argv[1:]
    warnings.simplefilter("ignore")
    if int(count) > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"127.0.0.1:{port}", int(count), int(number))
    result = time_of_step() if what == "time" else [updates_of(x) for x in names]
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
