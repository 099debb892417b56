"""The benchmark of all optimizers runs, and reports, in a quick form."""

import json

import equinox as eqx
import jax
import numpy as np
import pytest

import eqxopt
from benchmarks.quality import __main__ as command, evidence, protocol
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
