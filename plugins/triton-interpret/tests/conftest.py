"""Tests for a process whose Triton interprets: TRITON_INTERPRET=1."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest
from shared_assets import assets, stories260k

__all__ = ["assets", "stories260k"]

INTERPRETED = find_spec("triton") is not None and os.environ.get("TRITON_INTERPRET") == "1"


@pytest.fixture(autouse=True)
def interpreted(request: pytest.FixtureRequest) -> None:
    """Skips what would run kernels where they would be compiled."""
    if "test_plugin.py" in str(request.path):
        return
    if not INTERPRETED:
        pytest.skip("TRITON_INTERPRET=1 runs this in Triton's interpreter")
    from pagoda_triton_interpret.interpreter import install

    install()
