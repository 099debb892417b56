"""The unconstrained CUTEst problems of `sif2jax` with up to 100 variables.

pip install --group benchmarks

The protocol is that of optimistix's benchmark: at most 1,024 steps, relative tolerance
1e-3, absolute tolerance 1e-6. A problem counts as solved at the first loss $f$ with
$f - f_* \\le 10^{-6} + 10^{-3} |f_*|$, where $f_*$ is the lowest loss that any solver
found. The solvers' own tests for convergence play no role: each goes on until it has
made its steps, or found nothing lower in 100 of them.
"""

import functools
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optimistix as optx
import scipy.optimize

import eqxopt

from .peers import Loss, of_optax, of_optimistix, ours, Solver, Start
from .report import draw_lines, markdown, summary


# A problem whose loss and gradients take longer to compile is left out.
MOST_SECONDS = 30.0
PATIENCE = 100
# Evaluations are counted, not timed: compile quickly, not well.
QUICK = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
}


class Trace(NamedTuple):
    """The evaluations made until the end of each step, and the lowest loss until
    then."""

    evaluations: np.ndarray
    losses: np.ndarray


SOLVERS: dict[str, Callable[[Loss, Start], Solver]] = {
    "eqxopt LBFGS": lambda *start: ours(eqxopt.LBFGS(), *start),
    "eqxopt BFGS": lambda *start: ours(eqxopt.BFGS(), *start),
    "eqxopt SSBroyden": lambda *start: ours(eqxopt.SSBroyden(), *start),
    "eqxopt NewtonCG": lambda *start: ours(eqxopt.NewtonCG(), *start),
    "optimistix BFGS": lambda *start: of_optimistix(
        optx.BFGS(rtol=1e-3, atol=1e-6), *start
    ),
    "optimistix LBFGS": lambda *start: of_optimistix(
        optx.LBFGS(rtol=1e-3, atol=1e-6, history_length=10), *start
    ),
    "optax lbfgs": lambda *start: of_optax(optax.lbfgs(), *start),
}
SCIPY = {
    "scipy BFGS": ("BFGS", {"gtol": 0}),
    "scipy L-BFGS-B": (
        "L-BFGS-B",
        {"maxcor": 10, "gtol": 0, "ftol": 0, "maxfun": 100_000},
    ),
}


@functools.cache
def _quick() -> dict[str, Any]:
    """Those that this version of the compiler knows."""

    def known(name: str) -> bool:
        program = jax.jit(lambda x: x, compiler_options={name: QUICK[name]})
        try:
            program.lower(0.0).compile()
        except jax.errors.JaxRuntimeError:
            return False
        return True

    return {name: value for name, value in QUICK.items() if known(name)}


def traced(
    solver: Callable[[Loss, Start], Solver], loss: Loss, y0: Start, most_steps: int
) -> Trace:
    """All steps of a solver, in one compiled loop."""

    @functools.partial(jax.jit, compiler_options=_quick())
    def run(y0):
        carry, step = solver(loss, y0)
        first = loss(y0)
        counts = jnp.zeros(most_steps, int)
        losses = jnp.full(most_steps, jnp.inf, first.dtype)

        def goes_on(loop):
            i, waited = loop[0], loop[1]
            return (i < most_steps) & (waited < PATIENCE)

        def body(loop):
            i, waited, best, total, carry, counts, losses = loop
            carry, value, evaluations = step(carry)
            # What is not finite is no lower loss.
            is_lower = value < best
            best = jnp.where(is_lower, value, best)
            total += evaluations
            waited = jnp.where(is_lower, 0, waited + 1)
            return (
                i + 1,
                waited,
                best,
                total,
                carry,
                counts.at[i].set(total),
                losses.at[i].set(best),
            )

        # The loss and the gradient at the start are an evaluation too.
        begin = (jnp.asarray(0), jnp.asarray(0), first, jnp.asarray(1))
        i, *_, counts, losses = jax.lax.while_loop(
            goes_on, body, (*begin, carry, counts, losses)
        )
        return first, i, counts, losses

    first, i, counts, losses = run(y0)
    return Trace(
        np.concatenate([[1], counts[:i]]), np.concatenate([[first], losses[:i]])
    )


def traced_scipy(
    method: str, options: dict[str, Any], value_and_grad, y0: Start, most_steps: int
) -> Trace:
    count, counts, losses = 0, [], []

    def counted(y):
        nonlocal count
        count += 1
        value, grads = value_and_grad(y)
        if count == 1:
            record(value)
        return float(value), np.asarray(grads)

    def record(value):
        counts.append(count)
        losses.append(min(float(value), losses[-1]) if losses else float(value))

    with np.errstate(all="ignore"):
        scipy.optimize.minimize(
            counted,
            np.asarray(y0),
            jac=True,
            method=method,
            callback=lambda intermediate_result: record(intermediate_result.fun),
            options={"maxiter": most_steps} | options,
        )
    return Trace(np.asarray(counts), np.asarray(losses))


@dataclass
class Solved:
    """The evaluations that each solver needed for each problem, or `None`."""

    problems: list[str]
    evaluations: dict[str, list[int | None]]
    left_out: list[str] = field(default_factory=list)

    def share(self, solver: str, most: float = float("inf")) -> float:
        counts = self.evaluations[solver]
        return sum(n is not None and n <= most for n in counts) / len(counts)

    @property
    def best_peer(self) -> float:
        return max(
            self.share(name) for name in self.evaluations if not name.startswith("eqx")
        )

    def table(self) -> str:
        header = {"solver": False, "solved": True, "in 1,024 evaluations": True}
        header |= {"median evaluations": True, "fewest": True}
        everywhere = [
            i for i, counts in enumerate(zip(*self.evaluations.values())) if all(counts)
        ]
        rows = []
        for name, counts in self.evaluations.items():
            common = [counts[i] for i in everywhere]
            rows.append(
                [
                    name,
                    f"{self.share(name):.1%}",
                    f"{self.share(name, 1024):.1%}",
                    f"{statistics.median(common):.0f}" if common else "",
                    f"{self.within(name, 1):.1%}",
                ]
            )
        return markdown(header, rows)

    def within(self, solver: str, factor: float) -> float:
        """The share of problems solved with at most that many times the evaluations of
        the best solver."""
        fewest = self._fewest()
        pairs = zip(self.evaluations[solver], fewest)
        return sum(n is not None and n <= factor * least for n, least in pairs) / len(
            fewest
        )

    def _fewest(self) -> list[int]:
        every = zip(*self.evaluations.values())
        return [min(n for n in counts if n is not None) for counts in every]

    def verdict(self) -> str:
        own = [name for name in self.evaluations if name.startswith("eqx")]
        missed = [
            f"{name}: {self.share(name):.1%} of {self.best_peer:.1%}"
            for name in own
            if self.share(name) < self.best_peer
        ]
        left = ", ".join(self.left_out)
        return f"{len(self.problems)} problems. {summary(len(own), missed)}" + (
            f" Left out, as they take too long to compile or fail: {left}."
            if left
            else ""
        )

    def rows(self) -> list[dict[str, Any]]:
        return [asdict(self)]

    def draw(self, output: pathlib.Path) -> None:
        """Performance profiles."""
        factors = np.geomspace(1, 64, 200)
        lines = [
            {
                "x": factors,
                "y": [100 * self.within(name, factor) for factor in factors],
                "label": name,
                "color": f"C{i}",
                "linestyle": "-" if name.startswith("eqx") else "--",
            }
            for i, name in enumerate(self.evaluations)
        ]
        panel = {
            "xscale": "log",
            "xlim": (1, 64),
            "ylim": (0, 100),
            "xlabel": "evaluations, as a multiple of the fewest",
            "ylabel": "problems solved, %",
            "xticks": (ticks := [1, 2, 4, 8, 16, 32, 64]),
            "xticklabels": [str(x) for x in ticks],
        }
        draw_lines([panel], [lines], output)


def compared(
    problems: Iterable[Any], *, most_steps: int = 1024, solvers: Sequence[str] = ()
) -> Solved:
    """The traces of all solvers on all problems, two at a time, and who solved what."""
    wanted = solvers or [*SOLVERS, *SCIPY]

    def run(problem: Any) -> dict[str, Trace] | None:
        # These hold for one thread. The problems may promote as they like.
        promoting = jax.numpy_dtype_promotion("standard")
        with jax.enable_x64(True), promoting, jax.numpy_rank_promotion("allow"):
            start = time.perf_counter()
            try:
                traces = _traces(problem, wanted, most_steps)
            except Exception as error:
                print(f"{problem.name}: {error}", file=sys.stderr, flush=True)
                traces = None
            seconds = time.perf_counter() - start
            print(f"{problem.name}: {seconds:.1f} s", file=sys.stderr, flush=True)
            jax.clear_caches()
            return traces

    problems = list(problems)
    with ThreadPoolExecutor(2) as threads:
        every = list(threads.map(run, problems))
    done = [(p.name, t) for p, t in zip(problems, every) if t is not None]
    left_out = [p.name for p, t in zip(problems, every) if t is None]
    counts = {name: [] for name in wanted}
    for _, traces in done:
        lowest = min(trace.losses[-1] for trace in traces.values())
        bound = lowest + 1e-6 + 1e-3 * abs(lowest)
        for name in wanted:
            reached = np.flatnonzero(traces[name].losses <= bound)
            first = reached[0] if len(reached) else None
            counts[name].append(
                None if first is None else int(traces[name].evaluations[first])
            )
    return Solved([name for name, _ in done], counts, left_out)


def _traces(problem: Any, wanted: Sequence[str], most_steps: int) -> dict[str, Trace]:
    y0 = jnp.asarray(problem.y0, float)
    loss = lambda y: jnp.asarray(problem.objective(y, problem.args), float).reshape(())
    start = time.perf_counter()
    value_and_grad = jax.jit(jax.value_and_grad(loss))
    first, _ = jax.block_until_ready(value_and_grad(y0))
    if time.perf_counter() - start > MOST_SECONDS:
        raise TimeoutError(f"more than {MOST_SECONDS:.0f} s to compile")
    if not jnp.isfinite(first):
        raise ValueError("the loss at the start is not finite")
    return {
        name: traced(SOLVERS[name], loss, y0, most_steps)
        if name in SOLVERS
        else traced_scipy(*SCIPY[name], value_and_grad, y0, most_steps)
        for name in wanted
    }


def cutest(*, most_variables: int = 100, every: int = 1) -> Solved:
    """All problems, or each `every`-th in alphabetical order."""
    with jax.enable_x64(True):
        import sif2jax  # takes minutes

        problems = [
            problem
            for problem in sif2jax.unconstrained_minimisation_problems
            if problem.y0.size <= most_variables
        ]
    problems.sort(key=lambda problem: problem.name)
    return compared(problems[::every])
