"""The time that imports take beyond that of Equinox."""

import statistics
import subprocess
import sys

from .timing import Figure


OURS = {
    "import eqxopt": "import eqxopt",
    "import eqxopt, one optimizer used": "import eqxopt; eqxopt.AdamW",
    "import eqxopt, every name used": "from eqxopt import *",
}
PEER = "import optax"
ALONE = "pass"


def import_times(*, repeats: int = 20) -> list[Figure]:
    """Medians over fresh processes, which are taken in turns."""
    times = {code: [] for code in (ALONE, PEER, *OURS.values())}
    for _ in range(repeats):
        for code, seen in times.items():
            timed = "import time; start = time.perf_counter(); import equinox\n"
            timed += f"{code}\nprint(time.perf_counter() - start)"
            out = subprocess.run(
                [sys.executable, "-W", "ignore", "-c", timed],
                capture_output=True,
                text=True,
                check=True,
            )
            seen.append(1000 * float(out.stdout))
    medians = {code: statistics.median(seen) for code, seen in times.items()}
    return [
        Figure(what, medians[code] - medians[ALONE], medians[PEER] - medians[ALONE])
        for what, code in OURS.items()
    ]
