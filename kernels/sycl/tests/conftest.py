"""The tests run on the OpenCL device that Intel's wheels make of the CPU, and skip without it."""

from __future__ import annotations

import pytest
import torch

from pagoda_kernels_sycl.queues import cpu_queue
from pagoda_kernels_sycl.runtime import SyclUnavailable, find_runtime


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The CPU, where SYCL kernels can be compiled and run on it; a broken run time is a failure."""
    try:
        find_runtime()
    except SyclUnavailable as why:
        pytest.skip(str(why))
    cpu_queue()
    return torch.device("cpu")


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    found = int.from_bytes(request.node.name.encode()[-4:], "little")
    print("seed", found)
    return found
