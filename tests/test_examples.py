"""The examples do what they say."""

import importlib.util
import os
import pathlib
import signal

import pytest
from cases import each, OPTIMIZERS
from training_loops import arrays, assert_equal

import eqxopt


EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def digits():
    return load("digits")


@pytest.fixture(scope="module")
def sweep():
    return load("sweep")


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_digits_accuracy(digits, tmp_path):
    output = tmp_path / "digits.png"
    assert digits.main(["--output", str(output)]) >= 0.97
    assert output.read_bytes().startswith(b"\x89PNG")


# Their inverse Hessian of this network would have gigabytes.
DENSE = {"BFGS", "SSBFGS", "SSBroyden"}


@pytest.mark.parametrize("name", each(sorted(OPTIMIZERS.keys() - DENSE)))
def test_digits_two_steps(digits, name, monkeypatch):
    """Every optimizer runs in the example's loop, and has a rate there."""
    assert name in digits.RATES
    monkeypatch.setattr(digits, "draw", lambda *_: None)  # it takes most of the time
    digits.main(["--optimizer", name, "--epochs", "1", "--batch-size", "700"])


def test_digits_draws_one_epoch(digits, tmp_path):
    output = tmp_path / "digits.png"
    digits.main(["--epochs", "1", "--batch-size", "700", "--output", str(output)])
    assert output.read_bytes().startswith(b"\x89PNG")


def test_digits_unknown_optimizer(digits, capsys):
    with pytest.raises(SystemExit):
        digits.main(["--optimizer", "adamw"])
    assert "'adamw'. The known ones: ADOPT, AMSGrad, " in capsys.readouterr().err


def test_sweep(sweep, tmp_path):
    output = tmp_path / "sweep.png"
    options = ["--rates", "5", "--steps", "100", "--output", str(output)]
    assert sweep.main(options) > 0.8
    assert output.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "name, options",
    {
        "GaussNewton": ["--steps", "20", "--damping", "1e-5"],
        "SSBroyden": ["--steps", "200"],
    }.items(),
)
def test_poisson(name, options, tmp_path):
    """Second order solves the equation, at few points, where Adam has not begun to."""
    output = tmp_path / "poisson.png"
    quick = ["--adam-steps", "50", "--width", "8", "--points", "8"]
    where = ["--output", str(output)]
    assert load("poisson").main(["--optimizer", name, *options, *quick, *where]) < 0.05
    assert output.read_bytes().startswith(b"\x89PNG")


def test_resume(tmp_path, monkeypatch, capsys):
    """A run that is stopped ends as one that is not, to the last bit."""
    resume = load("resume")
    options = lambda name: ["--checkpoint", str(tmp_path / name), "--epochs", "2"]
    whole = resume.main(options("whole.npz"))

    saved, save = 0, eqxopt.save

    def interrupted(path, tree):
        nonlocal saved
        save(path, tree)
        saved += 1
        if saved == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(eqxopt, "save", interrupted)
    for _ in range(2):
        parts = resume.main(options("parts.npz"))
    assert_equal(arrays(parts), arrays(whole))
    shown = capsys.readouterr().out
    assert shown.count("SIGTERM: saved") == shown.count("going on after") == 1
    assert "held out" in shown


@pytest.mark.parametrize("task, layouts", [("digits", 3), ("text", 1)])
def test_sharded(task, layouts, tmp_path):
    """Each device has less in each layout, and the losses are the same."""
    sharded = load("sharded")
    output, names = tmp_path / "sharded.png", sharded.LAYOUTS[-layouts:]
    arguments = ["--task", task, "--steps", "3", "--batch-size", "16", "--layout"]
    results = sharded.main([*arguments, *names, "--output", str(output)])
    assert [*results] == names and output.read_bytes().startswith(b"\x89PNG")
    sizes = [sum(size) for _, size, _ in results.values()]
    assert sizes == sorted(sizes, reverse=True) and len({*sizes}) == layouts
    losses = [losses for losses, _, _ in results.values()]
    assert all(loss == pytest.approx(losses[0], rel=1e-4) for loss in losses)
