"""``pagoda doctor``: one report of everything that a bug report should say, with the mend for each
problem found."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from pagoda import __version__
from pagoda.cli import machine
from pagoda.cli.arguments import Parser
from pagoda.cli.logs import set_up_logs
from pagoda.cli.platforms import describe, table
from pagoda.platform.errors import PagodaError
from pagoda.platform.types import CONTRACT
from pagoda.registry import Finding, survey


def run(words: Sequence[str]) -> int:
    """Run the command and return its exit code: 1 when no platform is usable."""
    parser = Parser(
        "pagoda doctor",
        "Examine the installation; paste the report into a bug report. "
        "The exit code is 1 when no platform can be used.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    args = parser.parse_args(words)
    set_up_logs(args.debug)
    report = examine()
    print(json.dumps(report, indent=2) if args.json else as_text(report))
    return 0 if any(row["usable"] for row in report["platforms"]) else 1


def examine() -> dict[str, Any]:
    """The report as plain data."""
    rows, problems = [], []
    for finding in survey():
        row = describe(finding)
        row["diagnosis"] = _diagnose(finding)
        rows.append(row)
        problems += _problems(finding, row)
    if not any(row["usable"] for row in rows):
        what = "no platform can be used here" if rows else "no platform is installed"
        problems.append({"what": what, "mend": "pip install 'pagoda-llm[NAME]', see the README"})
    settings = {k: _shown(k, v) for k, v in os.environ.items() if k.startswith("PAGODA_")}
    return {
        "pagoda": __version__,
        "contract": ".".join(map(str, CONTRACT)),
        "machine": machine.describe(),
        "versions": machine.versions(),
        "environment": settings,
        "platforms": rows,
        "problems": problems,
    }


def as_text(report: Mapping[str, Any]) -> str:
    """The report for people."""
    parts = [f"pagoda {report['pagoda']} (contract {report['contract']})"]
    parts.append(_section("machine", report["machine"]))
    parts.append(_section("versions", report["versions"]))
    if report["environment"]:
        parts.append(_section("environment", report["environment"]))
    parts.append("platforms\n" + _indented(table(report["platforms"])))
    parts += [
        _section(f"{row['name']} says", row["diagnosis"])
        for row in report["platforms"]
        if row["diagnosis"]
    ]
    lines = [f"  {p['what']}\n    mend: {p['mend']}" for p in report["problems"]]
    parts.append("\n".join(["problems", *(lines or ["  none found"])]))
    return "\n\n".join(parts)


def _diagnose(finding: Finding) -> dict[str, str]:
    if finding.platform is None:
        return {}
    try:
        return dict(finding.platform.ask("pagoda_diagnose"))
    except PagodaError as error:
        return {"pagoda_diagnose": error.what}


def _problems(finding: Finding, row: Mapping[str, Any]) -> list[dict[str, str]]:
    """What is wrong with one platform, each with what to do about it."""
    found = []
    if finding.problem:
        found.append({"what": finding.problem.what, "mend": finding.problem.remedy})
    elif row["problem"]:
        found.append({"what": row["problem"], "mend": ""})
    found += [
        {"what": f"device {finding.name}:{device.id}: {device.problem}", "mend": ""}
        for device in finding.devices
        if device.problem and finding.usable
    ]
    fallback = f"update or remove {finding.distribution}, or report this to its maintainers"
    return [{**problem, "mend": problem["mend"] or fallback} for problem in found]


def _shown(name: str, value: str) -> str:
    return "(set)" if "KEY" in name or "TOKEN" in name else value


def _section(title: str, facts: Mapping[str, str]) -> str:
    width = max(map(len, facts), default=0)
    return "\n".join([title, *(f"  {name:<{width}}  {text}" for name, text in facts.items())])


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
