"""The kernels run on a GPU where there is one, else in Triton's interpreter, which is slow: sizes
are small.  Without Triton, which is too large for the test extra, everything here is skipped."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

GPU = False
if find_spec("triton") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    import torch

    GPU = torch.cuda.is_available()
    if not GPU:
        os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is decorated


def pytest_report_header() -> str:
    if find_spec("triton") is None:
        return "kernels/triton: skipped, triton is not installed"
    return f"kernels/triton: {'on the GPU' if GPU else 'in the interpreter'}"


@pytest.fixture(scope="session")
def device() -> str:
    return "cuda" if GPU else "cpu"


@pytest.fixture(scope="session", autouse=True)
def faithful_interpreter() -> Iterator[None]:
    """bfloat16 as on a GPU, and errors for reads and writes outside of the arguments."""
    if not GPU and find_spec("triton") is not None:
        from interpreter import install

        install()
    yield
