"""Benchmarks of second order run, and report, in a quick form."""

import dataclasses
import json
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

import eqxopt
from benchmarks import curves, cutest, fits, pinns, report


@dataclasses.dataclass
class Problem:
    """A problem in the form of `sif2jax`."""

    name: str
    objective: Any
    y0: Any
    args: None = None


def rosenbrock(y, args):
    return 100 * (y[1] - y[0] ** 2) ** 2 + (1 - y[0]) ** 2


def beale(y, args):
    powers = y[1] ** jnp.arange(1, 4)
    return jnp.sum((jnp.asarray([1.5, 2.25, 2.625]) - y[0] * (1 - powers)) ** 2)


def check(results, part, folder):
    """The table, the picture and the JSON are made."""
    report.save({part: results}, folder)
    text = (folder / f"benchmarks-{part}.md").read_text()
    assert text.splitlines()[0] == results.verdict()
    assert (folder / f"benchmarks-{part}.svg").read_text().startswith("<?xml")
    assert json.loads((folder / "benchmarks.json").read_text())[part]["figures"]
    return text


def test_cutest(tmp_path):
    problems = [
        Problem("beale", beale, [1.0, 1.0]),
        Problem("broken", lambda y, args: y / 0, [1.0, 1.0]),
        Problem("rosenbrock", rosenbrock, [-1.2, 1.0]),
    ]
    names = ["eqxopt BFGS", "optimistix BFGS", "scipy L-BFGS-B"]
    solved = cutest.compared(problems, most_steps=200, solvers=names)
    assert solved.problems == ["beale", "rosenbrock"]
    assert solved.left_out == ["broken"]
    assert all(solved.share(name) == 1 for name in names)
    assert all(10 < n < 200 for counts in solved.evaluations.values() for n in counts)
    assert max(solved.within(name, 1) for name in names) >= 0.5
    assert "| eqxopt BFGS | 100.0% | 100.0% |" in check(solved, "cutest", tmp_path)


def test_fits(tmp_path, x64):
    """The loss of the small network falls, and what misses its bound is named."""
    method = curves.Method("LBFGS", eqxopt.LBFGS(), steps=20, chunk=10, bar=1e-9)
    shown = curves.Curves("loss", ("steps", "seconds"), times=(0.0,))
    runs = curves.trained(fits.Sine(), method, range(1))
    shown.runs.append((method, runs))
    assert runs[0].steps == [0, 10, 20]
    assert runs[0].evaluations[-1] >= 20
    assert runs[0].errors[-1] < 0.7 * runs[0].errors[0]
    assert shown.verdict() == "Of 1 bounds, 1 are missed (LBFGS)."
    check(shown, "fits", tmp_path)


@pytest.mark.parametrize("equation", [pinns.Poisson, pinns.Heat])
def test_solutions(equation, x64):
    """The residuals of the exact solution are 0, and so is its error."""
    problem = equation(per_side=4)
    for residuals in problem.residuals(problem.solution).values():
        assert jnp.max(jnp.abs(residuals)) < 1e-12
    assert problem.error(problem.solution) == 0


def test_sizes(x64):
    """481 and 1,051 parameters."""
    models = fits.Sine().model(0), pinns.Heat(per_side=2).model(0)
    arrays = [jax.tree.leaves(eqx.filter(model, eqx.is_array)) for model in models]
    assert [sum(x.size for x in each) for each in arrays] == [481, 1051]
