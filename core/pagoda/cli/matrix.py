"""The support matrix: what each platform declared and the conformance kit verified, as Markdown.

Read from the results that the kit writes (``--pagoda-report``) and that are kept with each platform
as ``conformance.json``; nothing in it is typed by hand."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pagoda.platform.errors import PagodaError
from pagoda.registry import installed

FILE = "conformance.json"
HEAD = (
    *("platform", "conformance", "dtypes (largest error)", "KV cache", "quantization"),
    *("features", "verified on"),
)


def support_matrix(checkout: Path) -> str:
    """The table over every platform that a checkout has results of, and every installed one."""
    found: dict[str, Mapping[str, Any] | None] = {
        file.parent.name: read_results(file) for file in checkout.glob(f"platforms/*/{FILE}")
    }
    for name in installed():
        found[name] = found.get(name) or _installed_results(name)
    return table(found)


def read_results(file: Path) -> Mapping[str, Any] | None:
    """One run of the kit; None where there is no file."""
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_text())
        return found if "declared" in found else None
    except (ValueError, TypeError) as error:
        remedy = f"pytest --pagoda-platform NAME --pagoda-report {FILE}"
        raise PagodaError(f"{file} is no result of the conformance kit: {error}", remedy) from error


def table(results: Mapping[str, Mapping[str, Any] | None]) -> str:
    """One row a platform, those with results first."""
    names = sorted(results, key=lambda name: (results[name] is None, name))
    rows: list[Iterable[str]] = [HEAD, ["---"] * len(HEAD)]
    rows += [_row(name, results[name]) for name in names]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _row(name: str, result: Mapping[str, Any] | None) -> list[str]:
    if result is None:
        return [name, "no results", *[""] * (len(HEAD) - 2)]
    declared, errors = result["declared"], result["errors"]
    dtypes = [
        f"{dtype} ({errors[dtype]['largest']:.1g})" if dtype in errors else dtype
        for dtype in sorted(declared["dtypes"])
    ]
    known = len(result["known_failures"])
    verdict = f"{result['contract']}, {result['level']} level" if result["conforms"] else "fails"
    if result.get("platform", name) != name:  # another one stood in for it
        verdict += f", by way of {result['platform']}"
    where = "; ".join(device.partition(": ")[2] for device in result["devices"])
    return [
        name,
        verdict + (f", {known} known failures" if known else ""),
        ", ".join(dtypes),
        ", ".join(declared["kv_dtypes"]),
        ", ".join(declared["quantizations"]) or "none",
        ", ".join(f for f, how in result["verified"].items() if how == "verified") or "none",
        f"{where}, {result['date']}",
    ]


def _installed_results(name: str) -> Mapping[str, Any] | None:
    """What a platform brings in its package, or keeps beside it in its own checkout."""
    entry = installed()[name][0]
    try:
        spec = find_spec(entry.module)
    except ImportError:
        return None
    if spec is None or spec.origin is None:
        return None
    package = Path(spec.origin).parent
    return read_results(package / FILE) or read_results(package.parent / FILE)
