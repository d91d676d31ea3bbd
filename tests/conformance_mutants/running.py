"""The kit run inside a test, away from the repository's own settings."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import pytest


class Failures:
    """Messages of the failed tests of a run."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.num_passed = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.num_passed += report.when == "call" and report.passed
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            self.messages.append(crash.message if crash else str(report.longrepr))


def run_kit(folder: Path, *arguments: str) -> tuple[Failures, str]:
    """The kit in this process, away from the repository's settings; its failures and its output."""
    settings = folder / "pytest.ini"
    settings.write_text("[pytest]\n")
    failures, output = Failures(), io.StringIO()
    common = ["-c", str(settings), "--rootdir", str(folder), "-q", "-s"]
    common += ["-p", "no:cacheprovider", "-p", "no:asyncio", "-p", "no:hypothesispytest"]
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        pytest.main([*common, "--import-mode=importlib", *arguments], plugins=[failures])
    return failures, output.getvalue()
