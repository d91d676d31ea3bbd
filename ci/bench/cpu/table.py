"""The table of a file of measurements."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from pathlib import Path

# Qwen2.5-0.5B: weights that every step reads, and those that each prompt token goes through.
NUM_READ, NUM_LAYERS = 494e6, 358e6
BYTES = {"f32": 4.0, "bf16": 2.0, "int8": 1.0, "int4": 0.66}  # int4: with the head in int8


def limit(metric: str, precision: str, machine: dict[str, float]) -> float | None:
    """Tokens a second if reading weights, or multiplying prompts by them, were all there is."""
    if metric == "W1 decode":
        return machine["read_GBs"] * 1e9 / (NUM_READ * BYTES[precision])
    if metric in ("W1 prefill", "W4"):
        kinds = ("float32_GFLOPs", "bfloat16_GFLOPs", "int8_GOPs")
        allowed = kinds[:1] if precision == "f32" else kinds[:2] if precision == "bf16" else kinds
        return max(machine[kind] for kind in allowed) * 1e9 / (2 * NUM_LAYERS)
    return None


def render(path: Path) -> str:
    """Markdown: a row for each precision and metric."""
    machine: dict[str, float] = {}
    rates: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    cores: list[float] = []
    divides = set()
    for line in path.read_text().splitlines():
        found = json.loads(line)
        for name, value in found.get("limits", {}).items():
            machine[name] = max(value, machine.get(name, 0))
        if not found.get("complete"):
            continue
        cores.append(found["cores_in_use"])
        divides.add(found["divide"])
        for metric, rate in found["rates"].items():
            rates[found["precision"], metric][found["engine"]].append(rate)
    lines = [f"Machine: {machine}; lengths divided by {sorted(divides)}; cores in use, all"]
    lines[0] += f" processes: median {statistics.median(cores):.2f}, most {max(cores):.2f}."
    lines += ["", "| weights | tokens/s | Pagoda | best peer | others | ratio | of the limit |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for (precision, metric), by_engine in rates.items():
        own = by_engine.pop("pagoda", None)
        if own is None:
            continue
        peers = sorted(by_engine.items(), key=lambda item: -statistics.median(item[1]))
        shown = [f"{name} {_shown(values)}" for name, values in peers]
        ratio = f"{statistics.median(own) / statistics.median(peers[0][1]):.2f}" if peers else ""
        most = limit(metric, precision, machine)
        share = f"{statistics.median(own) / most:.2f}" if most else ""
        others = "; ".join(shown[1:])
        best = shown[0] if shown else ""
        cells = [precision, metric, _shown(own), best, others, ratio, share]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _shown(values: list[float]) -> str:
    return f"{statistics.median(values):.1f} ({min(values):.1f}-{max(values):.1f})"
