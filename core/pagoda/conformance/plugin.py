"""``pytest --pagoda-platform NAME``: hold one installed platform to the contract.

Loaded by every pytest in the environment, so nothing heavy is imported before the option is seen.
"""

from __future__ import annotations

from pathlib import Path

import pytest

SUITE = Path(__file__).with_name("suite")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("pagoda", "conformance of a Pagoda platform")
    group.addoption(
        "--pagoda-platform", metavar="NAME", help="check this platform against the Pagoda contract"
    )
    group.addoption(
        "--pagoda-device", metavar="ID", help="the platform's device to use (default: its first)"
    )
    group.addoption(
        "--pagoda-model",
        metavar="DIR",
        help="a real model with golden tokens (golden*.json in or beside the folder), checked too",
    )
    group.addoption(
        "--pagoda-level",
        choices=("quick", "full"),
        default="quick",
        help="quick: the preferred dtype and float32; full: everything declared, at length",
    )
    group.addoption(
        "--pagoda-seed",
        type=int,
        metavar="N",
        help="seed of weights and inputs (default: a fresh one, printed)",
    )
    group.addoption(
        "--pagoda-report",
        action="append",
        default=[],
        metavar="PATH",
        help="write the table to PATH.json or PATH.md; may be given twice",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--pagoda-platform"):
        from pagoda.conformance.session import start

        start(config, SUITE)
