"""Figures as tables for people, JSON for programs, and pictures."""

import dataclasses
import json
import pathlib
import platform
from typing import Any, Protocol

import equinox as eqx
import jax
import matplotlib
import numpy as np
import optax

from .timing import Figure


matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes


plt.rcParams["svg.hashsalt"] = "benchmarks"

# Readable on a light page and on a dark one.
GREY, HELD, MISSED = "#808080", "#5c6bc0", "#ef5350"


class Results(Protocol):
    """What a part measured, where that is not a list of times beside a peer's."""

    def table(self) -> str: ...

    def verdict(self) -> str: ...

    def rows(self) -> list[dict[str, Any]]: ...

    def draw(self, output: pathlib.Path) -> None: ...


def machine() -> str:
    device = jax.devices()[0].device_kind
    versions = f"jax {jax.__version__}, equinox {eqx.__version__}"
    return f"{device} ({platform.machine()}), {versions}, optax {optax.__version__}"


def table(figures: list[Figure] | Results) -> str:
    if not isinstance(figures, list):
        return figures.table()
    lines = [
        "| what | eqxopt, ms | peer, ms | ratio | bound |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for f in figures:
        bar = "" if f.bar is None else f"{f.bar:.2f}{'' if f.holds else ' missed'}"
        speed = "" if f.bytes_moved is None else f" ({f.gigabytes_a_second:.0f} GB/s)"
        lines.append(
            f"| {f.what}{speed} | {f.ours:.3g} | {f.peer:.3g} | {f.ratio:.2f} | {bar} |"
        )
    return "\n".join(lines)


def verdict(figures: list[Figure]) -> str:
    """Which ratios miss their bounds."""
    missed = [f"{f.what}: {f.ratio:.3f}" for f in figures if not f.holds]
    return summary(sum(f.bar is not None for f in figures), missed)


def summary(bounds: int, missed: list[str]) -> str:
    if not bounds:
        return "There is no bound to keep."
    if not missed:
        return "Every bound is kept."
    return f"Of {bounds} bounds, {len(missed)} are missed ({'; '.join(missed)})."


def markdown(header: dict[str, bool], rows: list[list[str]]) -> str:
    """A table. `header` says of each column whether it holds numbers."""
    lines = [list(header), ["---:" if x else "---" for x in header.values()], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def save(parts: dict[str, list[Figure] | Results], folder: pathlib.Path) -> None:
    """The tables that the documentation shows, all figures as JSON, and pictures. Parts
    that were saved there before and are not among `parts` stay."""
    folder.mkdir(parents=True, exist_ok=True)
    output = folder / "benchmarks.json"
    kept = json.loads(output.read_text()) if output.exists() else {}
    for part, figures in parts.items():
        if isinstance(figures, list):
            rows = [dataclasses.asdict(f) | {"ratio": f.ratio} for f in figures]
        else:
            rows = figures.rows()
        kept[part] = {"machine": machine(), "figures": rows}
        show(part, figures, folder)
    output.write_text(json.dumps(kept, indent=1) + "\n")


def show(part: str, figures: list[Figure] | Results, folder: pathlib.Path) -> None:
    text = table(figures) + "\n"
    if not isinstance(figures, list):
        text = f"{figures.verdict()}\n\n{text}"
        figures.draw(folder / f"benchmarks-{part}.svg")
    elif any(f.bar is not None for f in figures):
        text = f"{verdict(figures)}\n\n{text}"
        draw(figures, folder / f"benchmarks-{part}.svg")
    (folder / f"benchmarks-{part}.md").write_text(text)


def draw(figures: list[Figure], output: pathlib.Path) -> None:
    """Every ratio as a line from 1, which is as fast as the peer, with the bound that
    it must keep."""
    shown = [f for f in figures if f.bar is not None][::-1]
    figure, axes = plt.subplots(
        figsize=(8, 0.19 * len(shown) + 0.9), layout="constrained"
    )
    places = range(len(shown))
    colors = [HELD if f.holds else MISSED for f in shown]
    ratios = [f.ratio for f in shown]
    axes.hlines(places, [1] * len(shown), ratios, colors=colors, linewidth=2)
    axes.scatter(ratios, places, color=colors, s=16, zorder=2)
    axes.scatter(
        [f.bar for f in shown], places, marker="|", color=GREY, s=40, linewidth=0.8
    )
    axes.axvline(1, color=GREY, linewidth=0.8)
    axes.set_yticks(places, [f.what for f in shown], fontsize=7)
    axes.set_xlabel("time, as a multiple of the peer's (mark: bound)")
    axes.set(xlim=(0, None), ylim=(-0.8, len(shown) - 0.2))
    in_grey(axes)
    figure.savefig(output, transparent=True, metadata={"Date": None})
    plt.close(figure)


def in_grey(axes: Axes) -> None:
    """The frame and its labels in a colour for both pages."""
    axes.tick_params(which="both", colors=GREY)
    for label in (axes.xaxis.label, axes.yaxis.label, axes.title):
        label.set_color(GREY)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(GREY)


def draw_lines(
    panels: list[dict[str, Any]],
    lines: list[list[dict[str, Any]]],
    output: pathlib.Path,
) -> None:
    """Panels side by side, with one legend. Each line has `x`, `y` and options of
    `Axes.plot`, each panel options of `Axes.set`."""
    figure, every = plt.subplots(
        1, len(panels), figsize=(4.2 * len(panels) + 1.4, 3.6), layout="constrained"
    )
    shown = {}
    for axes, panel, panel_lines in zip(np.atleast_1d(every), panels, lines):
        for line in panel_lines:
            options = {k: v for k, v in line.items() if k not in ("x", "y", "label")}
            (drawn,) = axes.plot(line["x"], line["y"], linewidth=1.2, **options)
            shown.setdefault(line["label"], drawn)
        axes.set(**panel)
        in_grey(axes)
    figure.legend(
        shown.values(),
        shown,
        loc="outside right upper",
        labelcolor=GREY,
        frameon=False,
        fontsize=8,
    )
    figure.savefig(output, transparent=True, metadata={"Date": None})
    plt.close(figure)
