"""The conformance kit must be able to fail: each wrong backend is caught, for the right reason."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from pagoda.conformance.plugin import SUITE

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # the mutants are a package beside this file

from conformance_mutants.catalog import install  # noqa: E402
from conformance_mutants.every import CATALOG  # noqa: E402
from conformance_mutants.running import run_kit  # noqa: E402


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
