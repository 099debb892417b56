"""Benchmarks of precision and memory run, and report, in a quick form."""

import json

from training_loops import in_optax

from benchmarks import mantissas, report, storage
from benchmarks.quality.precision import precision


def test_precision(tmp_path):
    names = "float32", "bfloat16, MasterWeights"
    ends = precision(seeds=2, scale=0.004, only=names)
    report.save({"precision": ends}, tmp_path)
    assert list(ends.losses) == ["digits", "breast cancer", "characters"]
    first = ends.losses["digits"]
    # The copies of the parameters see gradients of rounded ones, and end elsewhere.
    assert first["float32"] != first["bfloat16, MasterWeights"]
    assert all(
        0 < x < 5 for by in ends.losses.values() for xs in by.values() for x in xs
    )
    text = (tmp_path / "benchmarks-precision.md").read_text()
    assert text.splitlines()[0] == ends.verdict()
    assert (tmp_path / "benchmarks-precision.svg").read_text().startswith("<?xml")
    assert json.loads((tmp_path / "benchmarks.json").read_text())["precision"][
        "figures"
    ]


@in_optax
def test_storage():
    figures = storage.storage(128, repeats=2)
    names = [figure.what for figure in figures]
    assert names[2] == "AdamW, packed, 4 bytes of state, 0.0M entries"
    assert names[3] == "AdamW, 8-bit, 2.25 bytes of state, 0.0M entries"
    assert all(figure.ratio > 0 for figure in figures)


def test_mantissas(tmp_path):
    results = mantissas.mantissas(
        seeds=2, steps=10, decays=[0.9], splits=[(1, 14), (5, 10)]
    )
    assert list(results.packed) == [0.9]
    coarse, fine = results.packed[0.9].values()
    assert coarse != fine and all(0 < x < 5 for x in (*coarse, *fine))
    report.save({"mantissas": results}, tmp_path)
    lines = (tmp_path / "benchmarks-mantissas.md").read_text().splitlines()
    assert lines[0] == results.verdict() and len(lines) == 7
    assert (tmp_path / "benchmarks-mantissas.svg").read_text().startswith("<?xml")
