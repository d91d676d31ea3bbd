"""Nothing here runs unless a platform is named."""

from __future__ import annotations

import pytest


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    return None if config.getoption("--pagoda-platform", None) else True
