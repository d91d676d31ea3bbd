"""Where tests find real models, tokenizers and prompts that are too large to commit.

A conftest.py imports the ``assets`` fixture; a test that needs the folder skips without it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

BESIDE = Path(__file__).resolve().parents[2] / "shared" / "assets"


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder named by PAGODA_ASSETS, else ``shared/assets`` beside the checkout."""
    found = Path(os.environ.get("PAGODA_ASSETS", BESIDE))
    if not found.is_dir():
        pytest.skip(f"no assets at {found}; set PAGODA_ASSETS to their folder")
    return found


@pytest.fixture(scope="session")
def stories260k(assets: Path) -> Path:
    """A really trained Llama of 260 thousand parameters: folder ``hf``, golden tokens beside it."""
    return assets / "models" / "stories260K"
