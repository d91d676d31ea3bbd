"""``pagoda platforms`` and ``pagoda doctor`` on made-up platforms."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pagoda.cli import machine
from pagoda.cli.main import main
from pagoda.platform import CONTRACT

Capture = pytest.CaptureFixture[str]
Platforms = Any  # conftest's Platforms


@pytest.fixture
def mixed(platforms: Platforms) -> Platforms:
    platforms.add("abacus", priority=5)
    platforms.add("soroban", probe='raise Unavailable("no beads", "buy some")', priority=9)
    platforms.add(
        "suanpan",
        probe='return [DeviceInfo("0", "good"), DeviceInfo("1", "old", problem="worn out")]',
        more="@hookimpl\ndef pagoda_diagnose(): return {'beads': '7 of oak'}",
    )
    platforms.add_source("broken", "raise ImportError('libbeads.so')")
    return platforms


def test_the_table_says_what_works_and_why_not(mixed: Platforms, capsys: Capture) -> None:
    assert main(["platforms"]) == 0
    out = capsys.readouterr().out
    names = [line.split()[0] for line in out.splitlines() if not line.startswith(" ")]
    assert names == ["PLATFORM", "suanpan", "soroban", "abacus", "broken"]
    assert "problem: no beads. Try: buy some" in out
    assert "device suanpan:1: old (cannot be used: worn out)" in out
    assert "libbeads.so" in out and "dtypes: float32" in out


def test_json_has_the_same(mixed: Platforms, capsys: Capture) -> None:
    assert main(["platforms", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert {name: row["usable"] for name, row in rows.items()} == {
        "suanpan": True,
        "soroban": False,
        "abacus": True,
        "broken": False,
    }
    assert rows["abacus"]["distribution"] == "pagoda-abacus 1.2"
    assert [device["id"] for device in rows["abacus"]["devices"]] == ["0", "1"]


def test_failing_capabilities_make_a_platform_unusable(
    platforms: Platforms, capsys: Capture
) -> None:
    source = platforms.source("abacus")
    broken = source.replace('return Capabilities(StepLimits(8, 2), ("float32",))', "1 / 0")
    platforms.add_source("abacus", broken)
    assert main(["platforms"]) == 0
    assert "pagoda_capabilities failed: ZeroDivisionError" in capsys.readouterr().out
    assert main(["doctor"]) == 1


def test_no_platform(platforms: Platforms, capsys: Capture) -> None:
    assert main(["platforms"]) == 0
    assert "no platform is installed" in capsys.readouterr().out
    assert main(["doctor"]) == 1
    assert "mend: pip install 'pagoda-llm[" in capsys.readouterr().out


def test_doctor_reports_each_problem_with_its_mend(mixed: Platforms, capsys: Capture) -> None:
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert f"contract {CONTRACT[0]}.{CONTRACT[1]}" in out
    problems = out.partition("\nproblems\n")[2]
    assert "no beads\n    mend: buy some" in problems
    assert "device suanpan:1: worn out\n    mend: update or remove pagoda-suanpan" in problems
    assert "mend: pip install --force-reinstall pagoda-broken" in problems
    assert "suanpan says\n  beads  7 of oak" in out


def test_doctor_in_json(mixed: Platforms, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAGODA_API_KEY", "secret")
    monkeypatch.setenv("PAGODA_DEBUG", "")
    assert main(["doctor", "--json"]) == 0
    out = capsys.readouterr().out
    report = json.loads(out)
    assert report["environment"] == {"PAGODA_API_KEY": "(set)", "PAGODA_DEBUG": ""}
    assert "secret" not in out
    assert report["versions"]["pagoda-llm"] and report["machine"]["cpu"]
    assert len(report["problems"]) == 3


def test_a_failing_diagnosis_is_part_of_the_report(platforms: Platforms, capsys: Capture) -> None:
    platforms.add("abacus", more="@hookimpl\ndef pagoda_diagnose(): return 1 / 0")
    assert main(["doctor"]) == 0
    assert "pagoda_diagnose failed: ZeroDivisionError" in capsys.readouterr().out


def test_versions_are_read_without_importing() -> None:
    found = machine.versions()
    assert found["numpy"] and found["pluggy"]
    assert machine.describe()["memory"] != "unknown"


def test_a_bad_logging_level_is_an_error(
    platforms: Platforms, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAGODA_LOGGING_LEVEL", "loud")
    assert main(["platforms"]) == 1
    assert "PAGODA_LOGGING_LEVEL='LOUD': must be one of CRITICAL" in capsys.readouterr().err
