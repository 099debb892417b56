import gc
import itertools
import os
import subprocess
import sys


# Sharding is tested on eight devices. Jax has to start with them.
FLAGS = "--xla_force_host_platform_device_count=8"
# Programs here run a few times on small arrays: we compile them quickly, not well.
# Each is one LLVM module: splitting a small one into many only costs time.
QUICK = [
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",
]


def known(flags: list[str]) -> list[str]:
    """Those that this version of the compiler has. It ends a process that names
    others."""
    start = [sys.executable, "-c", "import jax; jax.devices()"]
    env = os.environ | {"XLA_FLAGS": " ".join(flags)}
    if subprocess.run(start, env=env, capture_output=True).returncode == 0:
        return flags
    return [] if len(flags) == 1 else [x for flag in flags for x in known([flag])]


before = os.environ.get("XLA_FLAGS", "")
if FLAGS not in before:  # otherwise the parent process has added them
    os.environ["XLA_FLAGS"] = " ".join([before, FLAGS, *known(QUICK)])

import jax
import pytest
from slow import mark


# Tracing makes many objects. Python would look for garbage among them too often.
gc.set_threshold(100_000, 20, 20)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


runs = itertools.count(1)


def pytest_runtest_teardown() -> None:
    """Drop compiled programs now and then. Those of a whole suite take gigabytes."""
    if next(runs) % 300 == 0:
        jax.clear_caches()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark(items)
