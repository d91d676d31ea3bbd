"""Kernels are compiled here, for chips that need not be there."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest

if find_spec("triton") is None or os.environ.get("TRITON_INTERPRET") == "1":
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session", autouse=True)
def faithful_interpreter() -> None:
    """Not needed here."""
