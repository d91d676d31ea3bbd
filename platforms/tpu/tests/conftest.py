"""Tests of the TPU platform; those that need torch-xla find it in an environment of its own."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from shared_assets import assets, stories260k

__all__ = ["assets", "stories260k"]

HERE = Path(__file__).parent
TIME_LIMIT = 900  # seconds


@pytest.fixture(scope="session")
def torch_xla() -> Any:
    """torch-xla on one device that the CPU plays."""
    if importlib.util.find_spec("torch_xla") is None:
        pytest.skip("torch-xla is not installed here: ci/check_xla.sh has an environment with it")
    from pagoda_tpu.environment import variables
    from pagoda_xla.environment import settle

    settle(variables([0], 0, 1))
    return importlib.import_module("torch_xla")


@pytest.fixture(scope="session")
def script() -> Callable[..., list[dict[str, Any]]]:
    """Run a script of this folder in a process of its own; its JSON lines."""
    if importlib.util.find_spec("torch_xla") is None:
        pytest.skip("torch-xla is not installed here: ci/check_xla.sh has an environment with it")

    def run(name: str, *words: str) -> list[dict[str, Any]]:
        done = subprocess.run(
            [sys.executable, str(HERE / name), *words],
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]

    return run


@pytest.fixture
def tiny_model() -> Any:
    """The module ``tiny_model`` of this folder."""
    spec = importlib.util.spec_from_file_location("tiny_model", HERE / "tiny_model.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
