"""The kernels are interpreted on the CPU and compiled, not run, for TPUs.  Without JAX these tests
are skipped.  Interpreted semaphores can wait for ever: a test that does ends the session."""

from __future__ import annotations

import faulthandler
import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

SECONDS = 600
collect_ignore_glob = [] if find_spec("jax") else ["test_*.py"]

# Before anything imports JAX: no TPU is looked for, and libtpu asks no metadata server.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    # Compiling takes longer than running.
    "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
}
if find_spec("jax"):
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


@pytest.fixture(autouse=True)
def time_limit() -> Iterator[None]:
    faulthandler.dump_traceback_later(SECONDS, exit=True, file=sys.__stderr__)
    yield
    faulthandler.cancel_dump_traceback_later()
