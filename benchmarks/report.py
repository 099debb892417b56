"""Figures as a table for people, JSON for programs, and a picture."""

import dataclasses
import json
import pathlib
import platform

import equinox as eqx
import jax
import matplotlib
import optax

from .timing import Figure


matplotlib.use("Agg")
import matplotlib.pyplot as plt


def machine() -> str:
    device = jax.devices()[0].device_kind
    versions = f"jax {jax.__version__}, equinox {eqx.__version__}"
    return f"{device} ({platform.machine()}), {versions}, optax {optax.__version__}"


def table(figures: list[Figure]) -> str:
    lines = [
        "| what | eqxopt, ms | optax, ms | ratio | bar |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for f in figures:
        bar = "" if f.bar is None else f"{f.bar:.2f}{'' if f.holds else ' missed'}"
        speed = "" if f.bytes_moved is None else f" ({f.gigabytes_a_second:.0f} GB/s)"
        lines.append(
            f"| {f.what}{speed} | {f.ours:.3g} | {f.peer:.3g} | {f.ratio:.2f} | {bar} |"
        )
    return "\n".join(lines)


def save(figures: list[Figure], folder: pathlib.Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [dataclasses.asdict(f) | {"ratio": f.ratio} for f in figures]
    text = json.dumps({"machine": machine(), "figures": rows}, indent=1)
    (folder / "benchmarks.json").write_text(text + "\n")
    draw(figures, folder / "benchmarks.png")


def draw(figures: list[Figure], output: pathlib.Path) -> None:
    """Every ratio as a bar, with the bound that it must keep."""
    shown = [f for f in figures if f.bar is not None][::-1]
    height = 0.22 * len(shown) + 1
    figure, axes = plt.subplots(figsize=(9, height), layout="constrained")
    colors = ["C0" if f.holds else "C3" for f in shown]
    axes.barh([f.what for f in shown], [f.ratio for f in shown], color=colors)
    places = range(len(shown))
    axes.scatter([f.bar for f in shown], places, marker="|", color="black", s=60)
    axes.axvline(1, color="grey", linewidth=0.8)
    axes.set(
        xlabel="time, as a multiple of optax's (mark: bound)", ylim=(-1, len(shown))
    )
    axes.tick_params(axis="y", labelsize=7)
    figure.savefig(output, dpi=110)
    plt.close(figure)
