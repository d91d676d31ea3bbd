"""The device for tests, where Intel's wheels are."""

from __future__ import annotations

import pytest
from shared_assets import assets, stories260k

from pagoda_kernels_sycl.queues import cpu_queue
from pagoda_kernels_sycl.runtime import SyclUnavailable, find_runtime
from pagoda_xpu import installed

__all__ = ["assets", "stories260k"]


@pytest.fixture
def sycl_cpu(monkeypatch: pytest.MonkeyPatch) -> str:
    """The device for tests; skipped without Intel's wheels, broken ones fail."""
    try:
        find_runtime()
    except SyclUnavailable as why:
        pytest.skip(str(why))
    cpu_queue()
    monkeypatch.setenv(installed.SWITCH, "1")
    return f"xpu:{installed.SYCL_CPU}"
