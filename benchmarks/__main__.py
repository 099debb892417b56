"""Runs every benchmark and prints one table."""

import equinox as eqx
import jax
import optax

import eqxopt

from .large import large_array
from .timing import Figure
from .update import eager, many_leaves


def main() -> None:
    figures = [
        *many_leaves(600, bars=(0.45, 1.05, 1.05)),
        eager(60, bar=0.2),
        large_array(
            "AdamW", eqxopt.AdamW(1e-3), optax.adamw(1e-3), side=4096, bar=1.05
        ),
    ]
    print(table(figures))


def table(figures: list[Figure]) -> str:
    versions = (
        f"jax {jax.__version__}, equinox {eqx.__version__}, optax {optax.__version__}"
    )
    lines = [
        f"{jax.devices()[0].device_kind}, {versions}",
        "",
        "| what | eqxopt, ms | optax, ms | ratio | bar |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for f in figures:
        bar = "" if f.bar is None else f"{f.bar:.2f}{'' if f.holds else ' missed'}"
        lines.append(
            f"| {f.what} | {f.ours:.2f} | {f.peer:.2f} | {f.ratio:.2f} | {bar} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
