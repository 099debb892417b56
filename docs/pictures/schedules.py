"""Draws the picture of all schedules: `python docs/pictures/schedules.py`."""

import pathlib

import jax
import jax.numpy as jnp
import matplotlib


matplotlib.use("svg")
import matplotlib.pyplot as plt

from eqxopt import schedules as s


# By schedule, what is drawn: a label and a schedule, or several.
PANELS = {
    "Constant": {"": s.Constant(0.7)},
    "Linear": {"": s.Linear(1.0, 0.1, 60, transition_begin=20)},
    "Polynomial": {
        f"power {power}": s.Polynomial(1.0, 0.1, power, 80) for power in (2, 0.5)
    },
    "ExponentialDecay": {
        "": s.ExponentialDecay(1.0, 20, 0.6),
        "staircase": s.ExponentialDecay(1.0, 20, 0.6, staircase=True),
    },
    "CosineDecay": {
        "": s.CosineDecay(1.0, 90),
        "exponent 2": s.CosineDecay(1.0, 90, exponent=2.0),
    },
    "InverseSquareRoot": {
        "": s.InverseSquareRoot(0.0, 1.0, 15),
        "timescale 40": s.InverseSquareRoot(0.0, 1.0, 15, timescale=40),
    },
    "WarmupConstant": {"": s.WarmupConstant(0.0, 1.0, 20)},
    "WarmupExponentialDecay": {
        "": s.WarmupExponentialDecay(0.0, 1.0, 15, 20, 0.6),
    },
    "WarmupCosineDecay": {"": s.WarmupCosineDecay(0.0, 1.0, 15, 90)},
    "WarmupStableDecay": {
        decay_type: s.WarmupStableDecay(0.0, 1.0, 15, 45, 35, decay_type=decay_type)
        for decay_type in ("linear", "1-sqrt", "cosine")
    },
    "OneCycleLinear": {"": s.OneCycleLinear(95, 1.0)},
    "OneCycleCosine": {"": s.OneCycleCosine(95, 1.0)},
    "PiecewiseConstant": {"": s.PiecewiseConstant(1.0, (30, 60), (0.5, 0.25))},
    "PiecewiseInterpolate": {
        kind: s.PiecewiseInterpolate(kind, 0.0, (20, 60, 90), (1.0, 0.3, 0.6))
        for kind in ("linear", "cosine")
    },
    "SGDR": {
        "": s.SGDR(
            dict(init_value=0, peak_value=peak, warmup_steps=4, decay_steps=steps)
            for peak, steps in [(1.0, 20), (0.8, 30), (0.6, 50)]
        )
    },
    "Join": {
        "": s.Join((s.Linear(0.0, 1.0, 20), 1.0, s.CosineDecay(0.6, 50)), (20, 45))
    },
    "Sum": {"": 0.3 + s.Linear(0.0, 0.3, 100) + s.CosineDecay(0.4, 50)},
    "Product": {"": s.Linear(0.0, 1.0, 20) * s.ExponentialDecay(1.0, 40, 0.5)},
    "Custom": {"": s.Custom(lambda step: 0.5 + 0.4 * jnp.sin(step / 10))},
}

# Readable on a light page and on a dark one.
TEXT = "#808080"
LINES = [("#5c6bc0", "-"), ("#26a69a", "--"), ("#ef8e19", ":")]


def main() -> None:
    plt.rcParams.update(
        {
            "axes.edgecolor": TEXT,
            "axes.labelcolor": TEXT,
            "axes.spines.right": False,
            "axes.spines.top": False,
            "font.size": 8,
            "svg.hashsalt": "schedules",
            "text.color": TEXT,
            "xtick.color": TEXT,
            "ytick.color": TEXT,
        }
    )
    # Quarter steps, so that jumps look like jumps.
    steps = jnp.linspace(0, 100, 401)
    figure, axes = plt.subplots(5, 4, figsize=(8, 8.5), sharex=True, sharey=True)
    for axis, (name, lines) in zip(axes.flat, PANELS.items()):
        for (label, schedule), (color, style) in zip(lines.items(), LINES):
            values = jax.vmap(schedule)(steps)
            axis.plot(steps, values, style, color=color, label=label, clip_on=False)
        axis.set_title(name, fontsize=9, loc="left")
        if any(lines):
            axis.legend(frameon=False, fontsize=7, loc="best", handlelength=1.6)
    for axis in list(axes.flat)[len(PANELS) :]:
        axis.set_axis_off()
    for axis in list(axes.flat)[len(PANELS) - 4 : len(PANELS)]:
        axis.tick_params(labelbottom=True)
        axis.set_xlabel("step")
    axes[0, 0].set(xlim=(0, 100), ylim=(0, 1.08), xticks=(0, 50, 100), yticks=(0, 1))
    figure.tight_layout()
    figure.savefig(
        pathlib.Path(__file__).with_suffix(".svg"),
        transparent=True,
        metadata={"Date": None},
    )


if __name__ == "__main__":
    main()
