"""The conformance kit must be able to fail: each wrong backend is caught, for the right reason."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from pathlib import Path

import pytest

from pagoda.conformance.plugin import SUITE

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # the mutants are a package beside this file

from conformance_mutants.catalog import install  # noqa: E402
from conformance_mutants.every import CATALOG  # noqa: E402


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


@pytest.mark.parametrize("name", CATALOG)
def test_mutants_are_caught(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant = CATALOG[name]
    install(mutant, tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{HERE}")  # for the kit's own child processes
    if mutant.breaks_core:
        mutant.breaks_core(monkeypatch)
    file, _, test = mutant.suite.partition("::")
    where = f"{SUITE / file}::{test}" if test else str(SUITE / file)
    failures, output = run_kit(tmp_path, "--pagoda-platform", name, where)
    text = "\n".join(failures.messages)
    assert failures.messages, f"{name} passes {mutant.suite}\n{output}"
    assert re.search(mutant.says, text, re.DOTALL), f"{name} is caught, but for what?\n{text}"
    assert f"pagoda: {name} does not conform to 1.0" in output


def test_the_table_is_long_enough() -> None:
    assert len(CATALOG) >= 15
