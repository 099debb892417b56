"""Training in several processes, which talk over the loopback device."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import pytest


HERE = pathlib.Path(__file__).parent
DEVICES = 4
# What two processes do, one after the other.
TOGETHER = """memory fsdp shards loader uneven_loaders interrupt callback
    callback_raises loader_raises nonfinite other_data local_batch global_batch
    save""".split()


def results(count, folder, *names):
    """What each of `count` processes reports of its tasks, by name."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = f"--xla_force_host_platform_device_count={DEVICES // count}"
    env = os.environ | {
        "XLA_FLAGS": f"{flags} --xla_backend_optimization_level=0",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)]),
    }
    script = str(HERE / "processes.py")
    started = [
        subprocess.Popen(
            [sys.executable, script, str(i), str(count), str(port), folder, *names],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(count)
    ]
    reports = []
    for process in started:
        out, errors = process.communicate(timeout=400)
        lines = [json.loads(x) for x in out.splitlines() if x.startswith("{")]
        reports.append({"errors": errors} | {k: v for x in lines for k, v in x.items()})
    return reports


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def two(folder):
    return results(2, folder, *TOGETHER)


@pytest.fixture(scope="module")
def one(two, folder):
    names = "memory fsdp shards loader global_batch load".split()
    return results(1, folder, *names)[0]


def close(a, b):
    return a == pytest.approx(b, rel=1e-3)


@pytest.mark.parametrize("task", ["memory", "fsdp", "shards", "loader", "global_batch"])
def test_the_numbers_of_one_process(task, two, one):
    for report in two:
        assert close(report[task]["numbers"], one[task]["numbers"]), report["errors"]
        assert close(report[task]["loss"], one[task]["loss"])
    assert two[0][task] == two[1][task]


def test_loaders_of_different_length(two):
    first, second = (report["uneven_loaders"] for report in two)
    assert first["steps"] == second["steps"] == 6
    assert first["numbers"] == second["numbers"]
    assert any("left out" in text for text in second["warned"])
    assert any("6 of 20 steps" in text for text in first["warned"])


@pytest.mark.parametrize(
    "task, reason, least",
    [("interrupt", "SIGTERM", 8), ("callback", "callback", 8), ("nonfinite", None, 6)],
)
def test_all_stop_at_the_same_step(task, reason, least, two):
    first, second = (report[task] for report in two)
    assert first["steps"] == second["steps"] and least <= first["steps"] < 400
    assert first["stopped"] == second["stopped"] == (reason or task)
    assert first["count"] == second["count"] == first["steps"]


@pytest.mark.parametrize("task", ["callback_raises", "loader_raises"])
def test_an_error_of_one_is_an_error_of_all(task, two):
    assert two[1][task]["error"] == "ZeroDivisionError: here"
    assert "another process" in two[0][task]["error"]
    assert two[0][task]["reached"] == two[1][task]["reached"] >= 4


def test_mistakes(two):
    for report in two:
        assert "the same in all processes" in report["other_data"]["error"]
        assert "make_array_from_process_local_data" in report["local_batch"]["error"]


@pytest.mark.parametrize("count", [1, 4])
def test_a_run_goes_on_in_another_number_of_processes(count, two, one, folder):
    reports = [one] if count == 1 else results(count, folder, "load")
    for report in reports:
        assert report["load"]["kept"], report["errors"]
        assert report["load"]["count"] == 8
        assert close(report["load"]["numbers"], two[0]["fsdp"]["numbers"])


def test_a_process_that_is_killed(folder):
    """The other ends with an error that says what to do, and loses nothing."""
    survivor = results(2, folder, "killed")[0]["killed"]
    assert survivor["error"] is not None and survivor["reached"] == 8
    assert any("ended" in note and "eqxopt.load" in note for note in survivor["notes"])
