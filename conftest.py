"""Fixtures of every test in the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of real models, tokenizers, templates and schemas; skips where there is none."""
    beside = Path(__file__).parent.parent / "shared" / "assets"
    folder = Path(os.environ.get("PAGODA_ASSETS", beside))
    if not folder.is_dir():
        pytest.skip(f"no assets at {folder}; PAGODA_ASSETS may name their folder")
    return folder
