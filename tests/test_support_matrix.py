"""The README's support matrix is what the conformance kit found, and what is declared today."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pagoda import registry
from pagoda.cli.main import main
from pagoda.cli.matrix import support_matrix, table
from pagoda.platform import PagodaError

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- support matrix -->", "<!-- /support matrix -->"
RESULTS = {
    file.parent.name: file
    for file in [
        *ROOT.glob("platforms/*/conformance.json"),
        ROOT / "core/pagoda/reference/conformance.json",
    ]
}


def test_the_readme_is_current(monkeypatch: pytest.MonkeyPatch) -> None:
    # What else is installed here is nobody's business but its own.
    ours = {name: entries for name, entries in registry.installed().items() if name in RESULTS}
    monkeypatch.setattr("pagoda.cli.matrix.installed", lambda: ours)
    section = (ROOT / "README.md").read_text().split(BEGIN)[1].split(END)[0]
    assert section.strip() == support_matrix(ROOT).strip(), (
        f"put the output of `pagoda platforms --markdown` between {BEGIN} and {END}"
    )


@pytest.mark.parametrize("name", RESULTS)
def test_results_are_of_what_is_declared(name: str) -> None:
    """Capabilities changed since: run the kit again."""
    recorded = json.loads(RESULTS[name].read_text())
    assert recorded["whole"] and recorded["conforms"]
    assert recorded["level"] == "full" or recorded["platform"] != name, "full on its own hardware"
    try:
        choice = registry.choose(name)
    except PagodaError as error:
        pytest.skip(str(error))
    today = choice.platform.ask("pagoda_capabilities", model=None, devices=choice.devices)
    declared = recorded["declared"]
    assert sorted(declared["features"]) == sorted(feature.value for feature in today.features)
    if recorded["devices"] != [f"{device.id}: {device.name}" for device in choice.devices]:
        return  # recorded on another machine, whose dtypes may be others
    for key in ("dtypes", "kv_dtypes", "quantizations"):
        assert sorted(declared[key]) == sorted(getattr(today, key)), (
            f"{key} changed: pytest --pagoda-platform {name} --pagoda-level full"
            f" --pagoda-report {RESULTS[name].relative_to(ROOT)}"
        )


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["platforms", "--markdown"]) == 0
    assert "| reference | 1.0, full level |" in capsys.readouterr().out


def test_a_platform_without_results_says_so() -> None:
    assert "| abacus | no results |" in table({"abacus": None})


def test_a_stand_in_is_named() -> None:
    result = json.loads(RESULTS["reference"].read_text())
    assert "by way of" not in table({"reference": result})
    assert "level, by way of reference |" in table({"abacus": result})
