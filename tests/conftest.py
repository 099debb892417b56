import itertools
import os
import subprocess
import sys


# Sharding is tested on eight devices, which have to be there before jax starts.
FLAGS = "--xla_force_host_platform_device_count=8"
# What is compiled here runs a few times on small arrays: compiling it quickly is worth
# more than compiling it well.
QUICK = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false"
)


def known(flags: str) -> bool:
    """Whether the compiler has these flags: it ends a process that names others."""
    start = [sys.executable, "-c", "import jax; jax.devices()"]
    env = os.environ | {"XLA_FLAGS": flags}
    return subprocess.run(start, env=env, capture_output=True).returncode == 0


before = os.environ.get("XLA_FLAGS", "")
if FLAGS not in before:  # else it was done by the process that started this one
    added = f"{FLAGS} {QUICK}" if known(QUICK) else FLAGS
    os.environ["XLA_FLAGS"] = f"{before} {added}"

import jax
import pytest


jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


runs = itertools.count(1)


def pytest_runtest_teardown() -> None:
    """Compiled programs are kept for as long as they might be called again: gigabytes
    for a whole suite."""
    if next(runs) % 300 == 0:
        jax.clear_caches()
