"""Records of measurements: what was run, on what, each run's numbers, their median and spread."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pagoda import __version__
from pagoda.cli import machine
from pagoda.cli.arguments import Parser

PERCENTILES = (10, 25, 50, 75, 90, 99)

Run = Mapping[str, float]


def add_json(parser: Parser) -> None:
    """The option that every benchmark has."""
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object instead of a table"
    )


def percentiles(prefix: str, values: Sequence[float], scale: float = 1.0) -> dict[str, float]:
    """Mean and percentiles as metrics named ``prefix_mean``, ``prefix_p50`` and so on."""
    if not len(values):
        return {}
    array = np.asarray(values, np.float64) * scale
    named = {f"{prefix}_mean": float(array.mean())}
    for p, value in zip(PERCENTILES, np.percentile(array, PERCENTILES), strict=True):
        named[f"{prefix}_p{p}"] = float(value)
    return named


def make_report(
    prog: str, words: Sequence[str], settings: Mapping[str, Any], runs: Sequence[Run]
) -> dict[str, Any]:
    """The record of ``runs``, fit for JSON.  Metrics are the keys that every run has."""
    metrics = [name for name in runs[0] if all(name in run for run in runs)]
    return {
        "command": shlex.join([*prog.split(), *words]),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "pagoda": __version__,
        "machine": machine.describe(),
        "versions": machine.versions(),
        "settings": dict(settings),
        "summary": {name: _spread([run[name] for run in runs]) for name in metrics},
        "runs": [dict(run) for run in runs],
    }


def show(report: Mapping[str, Any], as_json: bool) -> None:
    """Print a report to stdout."""
    if as_json:
        print(json.dumps(report))
        return
    print(f"{report['command']}\n{report['machine']['cpu']}, {report['machine']['cores']} cores")
    for name, value in report["settings"].items():
        print(f"  {name}: {value}")
    count = len(report["runs"])
    width = max(map(len, report["summary"]), default=0)
    for name, spread in report["summary"].items():
        line = f"{name:<{width}}  {spread['median']:>12.3f}"
        if count > 1:
            line += f"  ({spread['min']:.3f} to {spread['max']:.3f} over {count} runs)"
        print(line)


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": float(np.median(values)), "min": min(values), "max": max(values)}
