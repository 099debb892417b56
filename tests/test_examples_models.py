"""The examples that train a transformer, a neural ODE and a network of flax."""

import numpy as np
import pytest
from test_examples import load

import eqxopt


def test_characters(tmp_path, capsys):
    """Both optimizers learn, at the rates of their schedules."""
    output = tmp_path / "characters.png"
    size = ["--context", "16", "--width", "16", "--depth", "1", "--batch-size", "8"]
    options = ["--steps", "40", "--characters", "20", "--output", str(output)]
    logs = load("characters").main([*size, *options])
    assert [*logs] == ["AdamW", "Muon"] and output.read_bytes().startswith(b"\x89PNG")
    for log in logs.values():
        assert np.mean(log.losses[-5:]) < 0.8 * log.losses[0]
        assert log.held_out[40] < log.held_out[4]
        for rates in log.rates.values():
            assert rates[0] == 0 and np.argmax(rates) == 4 and rates[-1] < rates[20]
    assert [*logs["AdamW"].rates] == ["AdamW"]
    rates = logs["Muon"].rates
    assert set(rates) == {"Muon", "Muon.AdamW"}
    np.testing.assert_allclose(rates["Muon.AdamW"], 0.4 * rates["Muon"], rtol=1e-5)
    assert "held out" in capsys.readouterr().out


def test_characters_matrices():
    """Muon trains the matrices inside of the blocks, and AdamW all others."""
    characters = load("characters")
    model = characters.Transformer(9, 8, 8, 1, characters.jax.random.key(0))
    shown = eqxopt.describe(characters.muon(steps=10).init(model), model)
    groups = {line.split()[0]: line for line in shown.split("\n")[1:-1]}
    for path, line in groups.items():
        inside = path.startswith(".blocks") and path.endswith("weight")
        assert (" matrix " in line) == (inside and "norms" not in path), line
        assert (" matrix " in line) != (" AdamW " in line), line


def test_neural_ode(tmp_path):
    pytest.importorskip("diffrax")
    output = tmp_path / "neural_ode.png"
    options = ["--steps", "8", "--trajectories", "4", "--learning-rate", "0.03"]
    runs = load("neural_ode").main([*options, "--output", str(output)])
    assert [*runs] == ["growing", "all at once"]
    assert output.read_bytes().startswith(b"\x89PNG")
    for run in runs.values():
        assert run.steps == [*range(9)] and run.errors[-1] < 0.2 * run.errors[0]


def test_neural_ode_until():
    """What is later than the horizon does not count, and what is earlier does."""
    pytest.importorskip("diffrax")
    neural_ode = load("neural_ode")
    model = neural_ode.NeuralODE(neural_ode.jax.random.key(0))
    data = neural_ode.trajectories(2, neural_ode.jax.random.key(1))
    loss = lambda data: neural_ode.evaluate(model, data, until=np.float32(3.0))
    assert loss(data.at[:, 11:].add(1.0)) == loss(data)
    assert loss(data.at[:, 10].add(1.0)) != loss(data)


def test_nnx_digits(tmp_path, capsys):
    """Both ways train, average, and lower the rate; a file holds the network."""
    pytest.importorskip("flax")
    digits = load("nnx_digits")
    output, file = tmp_path / "nnx.png", tmp_path / "nnx.npz"
    options = ["--epochs", "4", "--checkpoint", str(file), "--output", str(output)]
    runs = digits.main(options)
    assert [*runs] == ["nnx.Optimizer", "eqxopt.fit"]
    assert output.read_bytes().startswith(b"\x89PNG")
    for run in runs.values():
        assert len(run.trained) == len(run.averaged) == 4
        assert min(run.trained[-1], run.averaged[-1]) > 0.9
    numbers = runs["nnx.Optimizer"].state[1]["opt_state"]["optimizer"]
    np.testing.assert_allclose(numbers["learning_rate"][...], 1e-3)
    params, rest, opt = runs["eqxopt.fit"].state
    np.testing.assert_allclose(opt.hyperparameters()["AdamW.learning_rate"], 1e-3)
    score = f"restored from {file}: {runs['eqxopt.fit'].averaged[-1]:.1%}"
    assert score in capsys.readouterr().out.replace("\n", "")
