"""The benchmark of all optimizers runs, and reports, in a quick form."""

import json
import math
import pathlib

import equinox as eqx
import jax
import numpy as np
import pytest

import eqxopt
from benchmarks import report
from benchmarks.quality import __main__ as command, evidence, protocol, rates
from benchmarks.quality.optimizers import CONTENDERS, every_optimizer, NUMBERS, PLAIN
from benchmarks.quality.tasks import TASKS


def test_no_optimizer_is_left_out():
    assert set(PLAIN) == every_optimizer()
    assert next(iter(CONTENDERS)) == "AdamW"
    assert set(evidence.SHOWN) <= set(CONTENDERS)
    for contender in CONTENDERS.values():
        opt = contender.make(NUMBERS[3], 100)
        assert isinstance(opt, eqxopt.AbstractOptimizer)


@pytest.mark.parametrize("name", TASKS)
def test_tasks(name):
    task = TASKS[name]()
    with jax.enable_x64(task.float64):
        model = eqx.filter_eval_shape(task.make_model, jax.random.key(0))
        for judge in task.training_loss, task.held_out:
            assert eqx.filter_eval_shape(judge, model).shape == ()


def test_curve():
    losses = np.arange(100.0)
    means = protocol.curve(losses)
    assert means[0] == 0 and means[-1] == np.mean(losses[-5:])
    assert len(means) == protocol.PLACES


def pair(curve, loss=1.0):
    task = {"steps": 101, "untrained_loss": 10.0, "bytes": 4, "larger_is_better": False}
    own = {"seconds_a_step": 2.0, "state_bytes": 8, "held_out": [loss, None]}
    own |= {"loss": [loss, None], "curve": curve, "tuning": [3.0, 1.0, 2.0, None]}
    return evidence.Pair(task, own | {"curve": [100.0] * 49 + [1.0]}, own)


def test_figures_of_a_pair():
    falls = pair([100.0] * 10 + [0.01] * 40)
    # Halfway between two places, as losses fall like powers.
    before, after = protocol.places(101)[9:11] + 1
    assert falls.steps_to_base == pytest.approx((before + after) / 2)
    assert falls.seconds_ratio == falls.steps_ratio < 0.25
    assert falls.losses() == [1.0, 10.0]
    assert falls.loss_ratio == 1 and falls.state == 2 and falls.tolerance == 2
    never = pair([100.0] * 49 + [None])
    assert never.steps_to_base is None
    assert never.steps_ratio == evidence.PENALTY
    # Beside a base that is there at half of the steps.
    base = never.base | {"curve": [100.0] * 24 + [1.0] * 26}
    assert evidence.Pair(never.task, base, base).steps_ratio == 1
    late = evidence.Pair(never.task, base, never.own).steps_ratio
    assert late == pytest.approx(2 * evidence.PENALTY, rel=0.1)


def test_quick(tmp_path):
    tasks = "noisy quadratic", "matrix factorization"
    names = "--optimizers", "SGD", "Muon"
    arguments = ["--quick", "--save", str(tmp_path), *names, "--tasks"]
    command.main([*arguments, tasks[0]])
    first = protocol.load(tmp_path / "evidence.json")["pairs"]
    found = command.main([*arguments, *tasks])
    assert len(found.results["pairs"]) == 6
    # It goes on, and keeps what was measured.
    assert first.items() <= found.results["pairs"].items()
    assert found.results == protocol.load(tmp_path / "evidence.json")
    assert found.not_run["Muon"].keys() == {"noisy quadratic"}
    for by_task in found.pairs.values():
        for task, one in by_task.items():
            assert max(one.losses()) < found.tasks[task]["untrained_loss"] * 2
            assert one.own["seconds_a_step"] > 0
    text = (tmp_path / "benchmarks-evidence.md").read_text()
    assert text.startswith(found.verdict()) and "| Muon | 1 |" in text
    for end in ("-matrix-factorization", "-noisy-quadratic", "-not-run"):
        assert (tmp_path / f"benchmarks-evidence{end}.md").read_text().count("|") > 9
    for end in ("", "-curves", "-numbers"):
        picture = tmp_path / f"benchmarks-evidence{end}.svg"
        assert picture.read_text().startswith("<?xml")
    assert json.loads((tmp_path / "evidence.json").read_text())["machine"]
    with pytest.raises(ValueError, match="other settings"):
        command.main(["--save", str(tmp_path)])


def test_rates_of_the_example(tmp_path):
    found = rates.rates(["AdamW", "SGD"], epochs=2, batch_size=700)
    assert [*found.trained] == ["AdamW", "SGD"]
    # In four steps the larger rates come further.
    low, own, high = found.trained["AdamW"].losses
    assert low > own > high > 0
    report.save({"rates": found}, tmp_path)
    lines = (tmp_path / "benchmarks-rates.md").read_text().splitlines()
    assert lines[0] == found.verdict() and len(lines) == 6
    assert (tmp_path / "benchmarks-rates.svg").read_text().startswith("<?xml")


def test_a_bad_rate_is_named():
    bad = rates.Trained(0.1, [0.02, 0.05, 0.3], [0.97, 0.96, 0.9])
    good = rates.Trained(0.1, [0.03, 0.05, math.nan], [0.97, 0.96, 0.1])
    tiny = rates.Trained(0.1, [0.001, 0.009, 0.3], [0.97, 0.96, 0.9])
    verdict = rates.Rates(30, {"a": bad, "b": good, "c": tiny}).verdict()
    assert "above 0.01: a. " in verdict


def test_the_page_says_what_was_measured():
    """The table of `Which optimizer?`, row by row."""
    docs = pathlib.Path(__file__).parents[1] / "docs"
    found = evidence.Evidence(protocol.load(docs / "pictures" / "evidence.json"))
    page = (docs / "optimizers" / "index.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    losses = {
        "nearly anything": ["NAdamW"],
        "a network, whose": ["Muon, consistent_rms 0.2", "SOAP", "PSGDKron"],
        "no idea how": ["ScheduleFreeAdamW"],
        "little memory": ["CompactState(AdamW)", "NovoGrad", "AdamMini", "Signum"],
        "full batches": ["SSBroyden", "SSBFGS", "LBFGS", "NewtonCG"],
        "gradients too noisy": ["RAdam"],
        "batches of thousands": ["LAMB"],
    }
    for start, names in losses.items():
        (row,) = (row for row in rows if row.startswith(f"| {start}"))
        means = [
            f"{evidence.mean(found.pairs[x].values(), evidence.bounded_loss_ratio):.2f}"
            for x in names
        ]
        *some, last = means
        assert f"{', '.join(some)} and {last} of" in row if some else last in row
    (row,) = (row for row in rows if row.startswith("| no wish to choose"))
    for name in ("Prodigy", "AdamW"):
        assert f"{found.common(name)[1]:.2f}" in row
    (row,) = (row for row in rows if row.startswith("| nearly anything"))
    steps = evidence.mean(found.pairs["NAdamW"].values(), lambda x: x.steps_ratio)
    assert f"after {steps:.2f} of its steps" in row
    times = [pair.time_ratio for pair in found.pairs["NewtonCG"].values()]
    assert f"{min(times):.0e} {max(times):.1e}" == "4e+01 5.8e+02"
    assert "40 to 580 times" in page
