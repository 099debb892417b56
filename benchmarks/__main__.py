"""Runs the benchmarks and prints their table.

python -m benchmarks [PART ...] [--save FOLDER]

Without names it runs all parts but those that take long: cutest, devices, fits, heat,
mantissas, newton, poisson, precision and rates. On a GPU it runs those that are bound
by memory or by products, on larger arrays, and saves them beside the figures of a CPU.
All optimizers beside each other are a program of its own: `python -m
benchmarks.quality`.
"""

import argparse
import pathlib

import jax

from .cutest import cutest
from .devices import devices
from .everyone import large_alone, small_and_large
from .fits import fits
from .imports import import_times
from .large import large_array
from .mantissas import mantissas
from .matrices import muon, muon_step
from .newton_steps import newton_steps
from .pinns import heat, poisson
from .quality.precision import precision
from .quality.rates import rates
from .report import machine, save, table
from .stacks import stacks
from .steps import plain_loops, training_steps
from .storage import storage
from .sweeps import sweeps
from .tricks import tricks
from .update import eager, many_leaves


PARTS = {
    "update": lambda: [
        *many_leaves(60),
        *many_leaves(200),
        *many_leaves(600, bars=(0.27, 1.0, 0.6)),
        eager(60, bar=0.1),
    ],
    "steps": lambda: [
        *plain_loops(bar=0.65),
        *training_steps(60, bars=(0.3, 0.2)),
    ],
    "stacks": stacks,
    "large": lambda: [*large_array(4096, bar=1.05), *large_array(8192, bar=1.05)],
    "matrices": lambda: muon(12, bars=(0.6, 0.5)),
    "everyone": lambda: small_and_large(bars=(1.0, 1.1)),
    "imports": import_times,
    "tricks": tricks,
    "sweeps": sweeps,
    "storage": lambda: [*storage(4096), *storage(8192)],
    "precision": precision,
    "rates": rates,
    "mantissas": mantissas,
    "newton": newton_steps,
    "fits": fits,
    "poisson": poisson,
    "heat": heat,
    "cutest": cutest,
    "devices": devices,
}
LONG = ("precision", "mantissas", "newton", "fits", "poisson", "heat", "cutest")
LONG += ("devices", "rates")
# Compiling takes long there, so only steps are timed.
ON_GPU = {
    "large": lambda: large_array(16384, bar=1.05),
    "storage": lambda: storage(16384),
    "everyone": lambda: large_alone(8192, bar=1.1),
    "matrices": lambda: [muon_step(12, width, bar=0.5) for width in (128, 1024)],
}


def main() -> None:
    gpu = jax.default_backend() == "gpu"
    every = ON_GPU if gpu else PARTS
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*every, []])
    parser.add_argument(
        "--save", type=pathlib.Path, help="a folder for tables, JSON and pictures"
    )
    args = parser.parse_args()
    print(machine(), "\n")
    for part in args.parts or [name for name in every if name not in LONG]:
        figures = every[part]()
        print(table(figures), "\n", flush=True)
        if args.save:
            save({f"{part}-gpu" if gpu else part: figures}, args.save)


if __name__ == "__main__":
    main()
