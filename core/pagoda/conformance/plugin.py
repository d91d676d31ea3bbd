"""``pytest --pagoda-platform NAME``: hold one installed platform to the contract.

Loaded by every pytest in the environment, so nothing heavy is imported at the top.
"""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("pagoda").addoption(
        "--pagoda-platform", metavar="NAME", help="check this platform against the Pagoda contract"
    )
