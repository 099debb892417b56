"""The time that the import takes beyond that of Equinox."""

import statistics
import subprocess
import sys


def import_time(*, repeats: int = 10) -> float:
    """Seconds: the difference of the medians, from processes in turns."""
    times = {"import equinox": [], "import equinox, eqxopt": []}
    for _ in range(repeats):
        for code, seen in times.items():
            timed = f"import time; s = time.perf_counter(); {code}; "
            timed += "print(time.perf_counter() - s)"
            out = subprocess.run(
                [sys.executable, "-c", timed],
                capture_output=True,
                text=True,
                check=True,
            )
            seen.append(float(out.stdout))
    alone, both = (statistics.median(seen) for seen in times.values())
    return both - alone
