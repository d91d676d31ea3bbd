"""``pagoda platforms``: which platforms are installed, whether they work here, what they can do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pagoda.cli.arguments import Parser
from pagoda.cli.logs import set_up_logs
from pagoda.cli.matrix import support_matrix
from pagoda.platform.errors import PagodaError
from pagoda.registry import Finding, survey


def run(words: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    parser = Parser(
        "pagoda platforms", "List the installed platforms, the one that --device auto takes first."
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--markdown",
        action="store_true",
        help="print the support matrix: what the conformance kit verified of each platform that is"
        " installed or in the checkout that this is run in",
    )
    args = parser.parse_args(words)
    set_up_logs(args.debug)
    if args.markdown:
        print(support_matrix(Path()), end="")
        return 0
    rows = [describe(finding) for finding in survey()]
    print(json.dumps(rows, indent=2) if args.json else table(rows))
    return 0


def describe(finding: Finding) -> dict[str, Any]:
    """One platform as plain data."""
    row: dict[str, Any] = {
        "name": finding.name,
        "distribution": f"{finding.distribution} {finding.version}",
        "summary": finding.platform.info.summary if finding.platform else "",
        "priority": finding.platform.info.priority if finding.platform else None,
        "usable": finding.usable,
        "problem": str(finding.problem) if finding.problem else "",
        "devices": [
            {
                "id": device.id,
                "name": device.name,
                "memory_bytes": device.memory_bytes,
                "problem": device.problem,
                "details": dict(device.details),
            }
            for device in finding.devices
        ],
    }
    if finding.usable and finding.platform:
        usable = [device for device in finding.devices if not device.problem]
        try:
            offer = finding.platform.ask("pagoda_capabilities", model=None, devices=usable)
        except PagodaError as error:
            return row | {"usable": False, "problem": str(error)}
        row |= {
            "dtypes": list(offer.dtypes),
            "kv_dtypes": list(offer.kv_dtypes),
            "quantizations": list(offer.quantizations),
            "features": sorted(feature.value for feature in offer.features),
            "block_sizes": list(offer.block_sizes),
        }
    return row


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows of ``describe`` for people."""
    if not rows:
        return "no platform is installed; `pip install 'pagoda-llm[NAME]'` adds one"
    head = ("PLATFORM", "DISTRIBUTION", "PRIORITY", "STATE")
    cells = [head] + [
        (
            r["name"],
            r["distribution"],
            "" if r["priority"] is None else str(r["priority"]),
            "usable" if r["usable"] else "not usable",
        )
        for r in rows
    ]
    widths = [max(len(cell[i]) for cell in cells) for i in range(4)]
    lines = []
    for cell, row in zip(cells, [None, *rows], strict=True):
        lines.append(
            "  ".join(text.ljust(w) for text, w in zip(cell, widths, strict=True)).rstrip()
        )
        if row is not None:
            lines += [f"  {line}" for line in _details(row)]
    return "\n".join(lines)


def _details(row: dict[str, Any]) -> list[str]:
    lines = [row["summary"]] if row["summary"] else []
    if row["problem"]:
        lines.append(f"problem: {row['problem']}")
    for device in row["devices"]:
        memory = f", {device['memory_bytes'] / (1 << 30):.1f} GiB" if device["memory_bytes"] else ""
        problem = f" (cannot be used: {device['problem']})" if device["problem"] else ""
        lines.append(f"device {row['name']}:{device['id']}: {device['name']}{memory}{problem}")
    named = ("dtypes", "quantizations", "features")
    lines += [f"{name}: {', '.join(row[name])}" for name in named if row.get(name)]
    return lines
