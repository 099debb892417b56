"""How far methods get on least-squares problems: by steps, evaluations and seconds."""

import pathlib
import statistics
import time
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

import eqxopt

from .report import draw_lines, markdown, summary


class Problem(Protocol):
    def model(self, seed: int) -> eqx.Module: ...

    def residuals(self, model: Any) -> PyTree[Float[Array, "..."]]:
        """Half the sum of their squares is the loss."""
        ...

    def error(self, model: Any) -> Float[Array, ""]:
        """What is shown."""
        ...


@dataclass(frozen=True)
class Method:
    """An optimizer, how long it may train, and the error that it must reach.

    It stops at the first of `steps` and `evaluations`. A call of the compiled program
    makes `chunk` steps, and the error is taken after each call.
    """

    name: str
    optimizer: eqxopt.AbstractOptimizer
    steps: int
    evaluations: float = float("inf")
    chunk: int = 1
    bar: float | None = None


@dataclass
class Run:
    """What one seed came to. All start at the same error, after 0 seconds."""

    steps: list[int] = field(default_factory=lambda: [0])
    evaluations: list[int] = field(default_factory=lambda: [0])
    seconds: list[float] = field(default_factory=lambda: [0.0])
    errors: list[float] = field(default_factory=list)

    def error_after(self, seconds: float) -> float | None:
        """The error at that time, if the run was still going on."""
        if self.seconds[-1] < seconds:
            return None
        return [e for e, t in zip(self.errors, self.seconds) if t <= seconds][-1]


def trained(
    problem: Problem, method: Method, seeds: range, seconds: float = float("inf")
) -> list[Run]:
    """A run for each seed. The time is that of training: without compilation, and
    without what is shown."""
    models = [problem.model(seed) for seed in seeds]
    params = [eqx.filter(model, eqx.is_inexact_array) for model in models]
    static = eqx.filter(models[0], eqx.is_inexact_array, inverse=True)
    residual_fn = lambda params: problem.residuals(eqx.combine(params, static))
    error = jax.jit(lambda params: problem.error(eqx.combine(params, static)))

    def loss_fn(params):
        squares = [jnp.sum(jnp.square(r)) for r in jax.tree.leaves(residual_fn(params))]
        return 0.5 * sum(squares)

    def step(carry, _):
        params, opt = carry
        reuses = getattr(opt, "value_and_grad", None)
        value, grads = (
            reuses(loss_fn, params) if reuses else jax.value_and_grad(loss_fn)(params)
        )
        params, opt = opt.apply(
            grads, params, value=value, value_fn=loss_fn, residual_fn=residual_fn
        )
        evaluations = getattr(opt, "evaluations", None)
        return (params, opt), jnp.asarray(1 if evaluations is None else evaluations)

    @jax.jit
    def program(*carry):
        carry, evaluations = jax.lax.scan(step, carry, length=method.chunk)
        return *carry, jnp.sum(evaluations)

    opt = method.optimizer.init(params[0])
    compiled = program.lower(params[0], opt).compile()
    runs = []
    for one in params:
        run, carry = Run(errors=[float(error(one))]), (one, method.optimizer.init(one))
        while (
            run.steps[-1] < method.steps
            and run.evaluations[-1] < method.evaluations
            and run.seconds[-1] < seconds
        ):
            start = time.perf_counter()
            *carry, evaluations = jax.block_until_ready(compiled(*carry))
            run.seconds.append(run.seconds[-1] + time.perf_counter() - start)
            run.steps.append(run.steps[-1] + method.chunk)
            run.evaluations.append(run.evaluations[-1] + int(evaluations))
            run.errors.append(float(error(carry[0])))
        runs.append(run)
    return runs


@dataclass
class Curves:
    """The runs of all methods on a problem, as a table and a picture.

    `against` says what the panels of the picture show the error against, and `times`
    at which seconds the table shows it.
    """

    error: str
    against: tuple[str, ...]
    times: tuple[float, ...] = ()
    runs: list[tuple[Method, list[Run]]] = field(default_factory=list)

    def table(self) -> str:
        header = {"method": False, "steps": True, "evaluations": True, "seconds": True}
        header |= {f"{self.error} after {t:g} s": True for t in self.times}
        header |= {f"{self.error}, each seed": True, "bound": True}
        return markdown(header, [self._row(*pair) for pair in self.runs])

    def _row(self, method: Method, runs: list[Run]) -> list[str]:
        middle = lambda values: statistics.median(values)
        bar = "" if method.bar is None else f"{method.bar:.0e}"
        at_times = [[run.error_after(t) for run in runs] for t in self.times]
        return [
            method.name,
            f"{middle(run.steps[-1] for run in runs):.0f}",
            f"{middle(run.evaluations[-1] for run in runs):.0f}",
            f"{middle(run.seconds[-1] for run in runs):.3g}",
            *("" if None in x else ", ".join(f"{e:.1e}" for e in x) for x in at_times),
            ", ".join(f"{run.errors[-1]:.1e}" for run in runs),
            bar if self._holds(method, runs) else f"{bar} missed",
        ]

    def _holds(self, method: Method, runs: list[Run]) -> bool:
        return method.bar is None or all(x.errors[-1] <= method.bar for x in runs)

    def verdict(self) -> str:
        bounded = [pair for pair in self.runs if pair[0].bar is not None]
        missed = [pair[0].name for pair in bounded if not self._holds(*pair)]
        return summary(len(bounded), missed)

    def rows(self) -> list[dict[str, Any]]:
        return [
            {"method": method.name, "bar": method.bar, "seed": seed}
            | {name: values[-1] for name, values in asdict(run).items()}
            for method, runs in self.runs
            for seed, run in enumerate(runs)
        ]

    def draw(self, output: pathlib.Path) -> None:
        panels = [
            {
                "xscale": "log",
                "yscale": "log",
                "xlabel": name,
                "ylabel": self.error if i == 0 else "",
            }
            for i, name in enumerate(self.against)
        ]
        lines = [
            [
                {
                    "x": getattr(run, name)[1:],
                    "y": run.errors[1:],
                    "color": f"C{i}",
                    "label": method.name,
                }
                for i, (method, runs) in enumerate(self.runs)
                for run in runs
            ]
            for name in self.against
        ]
        draw_lines(panels, lines, output)
