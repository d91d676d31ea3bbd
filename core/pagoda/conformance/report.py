"""The outcome of a run, as a table for the terminal, JSON for machines and Markdown for people."""

from __future__ import annotations

import datetime
import json
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from pagoda.conformance.subject import Subject
from pagoda.platform.types import CONTRACT, Feature
from pagoda.registry import DISTRIBUTION

Row = dict[str, Any]


def missing_suffix(path: str) -> str:
    """What is wrong with a --pagoda-report path, if anything."""
    if Path(path).suffix in (".json", ".md"):
        return ""
    return f"--pagoda-report {path}: the name must end in .json or .md"


class Report:
    """Collects outcomes as pytest reports them."""

    def __init__(self, subject: Subject, everything: bool):
        self.subject = subject
        self.everything = everything  # was asked for: nothing left out by -k, -m or paths
        self.num_left_out = 0  # by the quick level
        self.features: dict[str, set[Feature]] = {}  # that each test is about
        self.began = datetime.datetime.now(datetime.timezone.utc)
        self.outcomes: dict[str, str] = {}  # test id to passed | failed | skipped | known
        self.reasons: dict[str, str] = {}  # of what did not pass

    def add(self, report: pytest.TestReport) -> None:
        """Take one phase of one test."""
        name = _short(report)
        outcome: str = report.outcome
        if hasattr(report, "wasxfail") and report.skipped:
            outcome = "known"
        if report.when != "call" and outcome == "passed":
            return
        if self.outcomes.get(name) == "failed":
            return
        self.outcomes[name] = outcome
        if outcome == "known":
            self.reasons[name] = str(getattr(report, "wasxfail", ""))
        elif outcome == "skipped" and isinstance(report.longrepr, tuple):
            self.reasons[name] = report.longrepr[2].removeprefix("Skipped: ")
        elif outcome == "failed":
            self.reasons[name] = _last_words(report)

    @property
    def whole(self) -> bool:
        """Everything was asked for, and no test was left unrun by an interrupt or ``-x``."""
        return self.everything and self.features.keys() <= self.outcomes.keys()

    @property
    def failed(self) -> list[str]:
        return [name for name, outcome in self.outcomes.items() if outcome == "failed"]

    def verified(self) -> dict[str, str]:
        """Each claimed feature, and what came of the tests about it."""
        found: dict[str, str] = {}
        for feature in sorted(self.subject.capabilities.features, key=lambda f: f.value):
            tests = [name for name, about in self.features.items() if feature in about]
            outcomes = [self.outcomes.get(name, "not run") for name in tests]
            num_passed = outcomes.count("passed")
            bad = [one for one in ("failed", "known") if one in outcomes]
            found[feature.value] = bad[0] if bad else "verified" if num_passed else "not verified"
        return found

    @property
    def conforms(self) -> bool:
        """Something ran and nothing failed."""
        passed = "passed" in self.outcomes.values()
        return passed and not self.failed and not self.subject.troubles

    def data(self) -> Row:
        """Everything, as plain data."""
        subject, choice = self.subject, self.subject.choice
        declared = subject.capabilities
        limits = declared.limits
        seconds = (datetime.datetime.now(datetime.timezone.utc) - self.began).total_seconds()
        return {
            "platform": subject.name,
            "summary": choice.platform.info.summary,
            "distribution": f"{choice.platform.distribution} {choice.platform.version}",
            "contract": ".".join(map(str, choice.platform.info.contract)),
            "conforms": self.conforms,
            "whole": self.whole,
            "level": subject.level,
            "seed": subject.seed,
            "date": self.began.date().isoformat(),
            "seconds": round(seconds, 1),
            "core": f"{DISTRIBUTION} {metadata.version(DISTRIBUTION)}",
            "kit_contract": ".".join(map(str, CONTRACT)),
            "python": platform.python_version(),
            "machine": f"{platform.system()} {platform.machine()}",
            "devices": [f"{d.id}: {d.name}" for d in choice.devices],
            "versions": dict(choice.platform.ask("pagoda_diagnose")),
            "declared": {
                "dtypes": list(declared.dtypes),
                "kv_dtypes": list(declared.kv_dtypes),
                "quantizations": list(declared.quantizations),
                "features": sorted(feature.value for feature in declared.features),
                "block_sizes": list(declared.block_sizes),
                "limits": {
                    "max_tokens": limits.max_tokens,
                    "max_requests": limits.max_requests,
                    "mixed": limits.mixed,
                    "chunked_prefill": limits.chunked_prefill,
                    "steps_in_flight": limits.steps_in_flight,
                },
            },
            "verified": self.verified(),
            "models": subject.families,
            "errors": {
                variant.name: {
                    "largest": float(f"{error:.2g}"),
                    "allowed": float(f"{subject.profile.tolerance(*variant.names):.2g}"),
                }
                for variant, error in subject.errors.items()
            },
            "suites": self._suites(),
            "left_to_full_level": self.num_left_out,
            "skipped": self._by_outcome("skipped"),
            "known_failures": self._by_outcome("known"),
            "failed": self._by_outcome("failed"),
            "troubles": list(subject.troubles),
        }

    def _suites(self) -> dict[str, dict[str, int]]:
        """Counts of each outcome by test file."""
        found: dict[str, dict[str, int]] = {}
        for name, outcome in self.outcomes.items():
            counts = found.setdefault(name.split("::")[0], {})
            counts[outcome] = counts.get(outcome, 0) + 1
        return found

    def _by_outcome(self, wanted: str) -> dict[str, str]:
        return {
            name: self.reasons.get(name, "")
            for name, outcome in self.outcomes.items()
            if outcome == wanted
        }

    def text(self) -> str:
        """The table for the terminal, ending with the verdict."""
        return "\n".join([*_table(self.data()), "", verdict(self.data())])

    def markdown(self) -> str:
        data = self.data()
        lines = [f"# Conformance of {data['platform']}", "", verdict(data), ""]
        lines += ["```text", *_table(data), "```", ""]
        return "\n".join(lines)

    def write(self, path: Path) -> None:
        """As JSON or Markdown, by the name's end."""
        if path.suffix == ".json":
            path.write_text(json.dumps(self.data(), indent=1) + "\n")
        else:
            path.write_text(self.markdown())


def verdict(data: Mapping[str, Any]) -> str:
    """One line: does it conform?"""
    name, part = data["platform"], "" if data["whole"] else ", as far as this partial run goes"
    if data["conforms"]:
        named = [k if v == "verified" else f"{k} {v}" for k, v in data["verified"].items()]
        features = ", ".join(named) or "none"
        known = len(data["known_failures"])
        but = f", {known} known failures" if known else ""
        return f"pagoda: {name} conforms to {data['contract']} (features: {features}){but}{part}"
    if not data["suites"]:
        return f"pagoda: {name}: nothing was tested"
    wrong = [*data["failed"], *data["troubles"]]
    what = f"{len(wrong)} failed" if wrong else "nothing passed"
    return f"pagoda: {name} does not conform to {data['contract']}: {what}{part}"


def _table(data: Mapping[str, Any]) -> list[str]:
    declared = data["declared"]
    verified = data["verified"].items()
    versions = ", ".join(f"{k} {v}" for k, v in data["versions"].items())
    lines = [
        f"platform   {data['platform']}: {data['summary']} ({data['distribution']})",
        f"run        {data['date']}, level {data['level']}, seed {data['seed']},"
        f" {data['seconds']:.0f} s, {data['core']}, Python {data['python']}",
        f"machine    {data['machine']}; {'; '.join(data['devices'])}",
        *([f"versions   {versions}"] if versions else []),
        f"declared   dtypes {', '.join(declared['dtypes'])}; kv {', '.join(declared['kv_dtypes'])};"
        f" quantizations {', '.join(declared['quantizations']) or 'none'}",
        "           features " + (", ".join(f"{k}: {v}" for k, v in verified) or "none"),
        "           limits " + ", ".join(f"{k} {v}" for k, v in declared["limits"].items()),
        f"models     {', '.join(data['models'])}",
        "",
        f"{'suite':<24}{'passed':>8}{'failed':>8}{'skipped':>9}{'known':>7}",
    ]
    for suite, counts in data["suites"].items():
        numbers = [counts.get(key, 0) for key in ("passed", "failed", "skipped", "known")]
        lines.append("{:<24}{:>8}{:>8}{:>9}{:>7}".format(suite.removesuffix(".py"), *numbers))
    lines += ["", f"{'computed in':<24}{'largest error':>16}{'allowed':>10}"]
    for name, error in data["errors"].items():
        lines.append(f"{name:<24}{error['largest']:>16.2g}{error['allowed']:>10.2g}")
    for title, entries in (
        ("failed", data["failed"]),
        ("known failures", data["known_failures"]),
        ("skipped", _grouped(data["skipped"])),
    ):
        if entries:
            lines += ["", f"{title}:"]
            lines += [f"  {name}: {reason}" for name, reason in entries.items()]
    if data["left_to_full_level"]:
        lines += ["", f"{data['left_to_full_level']} tests run at the full level only"]
    return lines + [f"trouble: {trouble}" for trouble in data["troubles"]]


def _grouped(skipped: Mapping[str, str]) -> dict[str, str]:
    """Skips by reason, one line each."""
    found: dict[str, list[str]] = {}
    for name, reason in skipped.items():
        tests = found.setdefault(reason, [])
        test = name.split("[")[0]
        if test not in tests:
            tests.append(test)
    return {reason: ", ".join(tests) for reason, tests in found.items()}


def _short(report: pytest.TestReport) -> str:
    """``test_file.py::test[x]`` wherever pytest was started; node ids differ."""
    _, _, test = report.nodeid.partition("::")
    return f"{Path(report.location[0]).name}::{test}"


def _last_words(report: pytest.TestReport) -> str:
    """The message of a failure on one line."""
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash is not None else str(report.longrepr)
    line = " ".join(text.split())
    return line if len(line) <= 600 else line[:597] + "..."
