"""Which checks a quick run leaves out, because they take long.

    pytest -m "" --junitxml=report.xml && python tests/slow.py report.xml

writes `slow.json` anew:

- `first`: tests with cases that take long. A quick run looks at the first case, and of
    a test in `NUMBERS` at the first one of each optimizer.
- `none`: tests whose first case takes very long.
"""

import json
import pathlib
import sys
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Iterable

import pytest


FILE = pathlib.Path(__file__).with_suffix(".json")
# They compare every optimizer with a reference.
NUMBERS = {
    "tests/test_parity.py::test_float64",
    "tests/test_paper.py::test_paper",
    "tests/test_reference_values.py::test_printed_losses",
}
# A quick run has these in any case: what the README promises.
KEPT = {"tests/test_examples.py::test_digits_accuracy"}
# As shares of the time of a whole run: 0.13 and 1.3 seconds of an hour.
LONG, VERY_LONG = 3.5e-5, 3.5e-4


def mark(items: Iterable[pytest.Item]) -> None:
    """Mark what a quick run leaves out."""
    slow = json.loads(FILE.read_text())
    first, none = set(slow["first"]), set(slow["none"])
    seen = set()
    for item in items:
        name = item.nodeid.partition("[")[0]
        if item.get_closest_marker("more") or name not in first | none:
            continue
        case = f"{name} of {_optimizer(item.nodeid)}" if name in NUMBERS else name
        if name in none or case in seen:
            item.add_marker("more")
        seen.add(case)


def _optimizer(nodeid: str) -> str:
    return nodeid.partition("[")[2].partition("-")[0].rstrip("]")


def write(report: pathlib.Path) -> None:
    times: dict[str, list[float]] = defaultdict(list)
    for case in ElementTree.parse(report).iter("testcase"):
        place, test = case.get("classname", ""), case.get("name", "")
        if not place.startswith("tests."):
            continue
        _, file, *classes = place.split(".")
        name = "::".join([f"tests/{file}.py", *classes, test.partition("[")[0]])
        times[name].append(float(case.get("time", 0)))
    whole = sum(map(sum, times.values()))
    share = {name: sum(x) / len(x) / whole for name, x in times.items()}
    slow = {
        "first": sorted(n for n, x in share.items() if x > LONG and len(times[n]) > 1),
        "none": sorted(
            n for n, x in share.items() if x > VERY_LONG and n not in NUMBERS | KEPT
        ),
    }
    slow["first"] = [name for name in slow["first"] if name not in slow["none"]]
    FILE.write_text(json.dumps(slow, indent=1) + "\n")


if __name__ == "__main__":
    write(pathlib.Path(sys.argv[1]))
