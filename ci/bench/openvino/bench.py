"""Pagoda on OpenVINO beside OpenVINO GenAI's ContinuousBatchingPipeline, in turns, on one machine.

    python ci/bench/openvino/bench.py MODEL CONVERTED [--precision ...] [--workload ...]

MODEL is a checkpoint's folder, CONVERTED what convert.py made of it.  Each engine has a process of
its own, and they take turns at every workload; both round, cache and batch alike."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from five_workloads import WORKLOADS  # noqa: E402

ROW = {"openvino_dynamic_quantization": "row"}
PRECISIONS: dict[str, dict[str, Any]] = {  # Pagoda's settings
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "int8": {"quantization": "int8"},
    "int8 row": {"quantization": "int8", "platform_options": ROW},
    "int4": {"quantization": "int4"},
}
GROUPS = {"off": "0", "row": str((1 << 64) - 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("converted", type=Path)
    parser.add_argument("--precision", nargs="*", default=["float32", "int8", "int4"])
    parser.add_argument("--dtype", default="float32", help="computed in, where weights are rounded")
    parser.add_argument("--workload", nargs="*", default=list(WORKLOADS), choices=list(WORKLOADS))
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--divide", type=int, default=1, help="all lengths, by this")
    parser.add_argument("--python", default=sys.executable, help="that has openvino-genai")
    parser.add_argument("--table", type=Path, help="run nothing: the table of such a file")
    parser.add_argument("--output", type=Path, help="JSON lines are added to this file")
    given = parser.parse_args()
    if given.table:
        lines = [json.loads(line) for line in given.table.read_text().splitlines()]
    else:
        lines = [line for precision in given.precision for line in compare(given, precision)]
    print(table(lines))


def compare(given: argparse.Namespace, precision: str) -> Iterator[dict[str, Any]]:
    """Both engines at one precision: start-up of each alone, then the workloads in turns."""
    settings = {"dtype": given.dtype, **PRECISIONS[precision]}
    rounding = settings.get("quantization", "stored")
    engines = {
        "pagoda": Engine(sys.executable, "pagoda", given.model, settings),
        "genai": Engine(given.python, "genai", given.converted / rounding, properties(settings)),
    }
    about = {"precision": precision, "divide": given.divide}
    for name, engine in engines.items():
        yield kept(given.output, {**about, "engine": name, **engine.ready()})
    for repetition in range(given.repetitions):
        for workload in given.workload:
            told = {"workload": workload, "repetition": repetition, "divide": given.divide}
            turns = list(engines.items())
            for name, engine in turns if repetition % 2 else turns[::-1]:
                found = {**about, "engine": name, **told, **engine.ask(told)}
                yield kept(given.output, found)
    for engine in engines.values():
        engine.close()


def kept(file: Path | None, line: dict[str, Any]) -> dict[str, Any]:
    """``line``, written down too: what was measured survives what goes wrong later."""
    if file:
        with file.open("a") as opened:
            opened.write(json.dumps(line) + "\n")
    return line


def properties(settings: dict[str, Any]) -> dict[str, str]:
    """The same in OpenVINO's words."""
    word = {"float32": "f32", "bfloat16": "bf16"}[settings["dtype"]]
    group = settings.get("platform_options", {}).get("openvino_dynamic_quantization", "off")
    return {
        "INFERENCE_PRECISION_HINT": word,
        "KV_CACHE_PRECISION": word,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": GROUPS[group],
    }


class Engine:
    """``one.py`` at work."""

    def __init__(self, python: str, name: str, model: Path, settings: dict[str, Any]):
        command = [python, str(HERE / "one.py"), name, str(model), json.dumps(settings)]
        self.name, self.command = name, command
        self.process: subprocess.Popen[str] | None = None

    def ready(self) -> dict[str, Any]:
        """Start; seconds from the process's first instant to its first token, imports and all."""
        began = time.perf_counter()
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        found = self._hear()
        seconds = time.perf_counter() - began
        return {"workload": "start-up", "seconds": seconds, **found, **self._hear()}

    def ask(self, what: dict[str, Any]) -> dict[str, Any]:
        if self.process is None or self.process.stdin is None:
            raise SystemExit(f"{self.name} was not started")
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        return self._hear()

    def _hear(self) -> dict[str, Any]:
        """The next line that is an answer; what else it prints goes to the terminal."""
        if self.process is None or self.process.stdout is None:
            raise SystemExit(f"{self.name} was not started")
        for line in self.process.stdout:
            if line.startswith("{"):
                found: dict[str, Any] = json.loads(line)
                return found
            print(line, end="", file=sys.stderr)
        raise SystemExit(f"{self.name} ended with status {self.process.wait()}")

    def close(self) -> None:
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()
            self.process.wait()


def table(lines: list[dict[str, Any]]) -> str:
    """Medians and ranges; the last column says how many times as fast Pagoda is."""
    rows = [
        "| weights | workload | Pagoda s (range) | GenAI s (range) | GenAI / Pagoda | of pairs"
        " | in CPU time | host ms a step |",
        "|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = {}
    for line in lines:
        workload = line["workload"]
        if "repetition" in line and line["divide"] > 1:
            workload += f" / {line['divide']}"
        found = groups.setdefault((line["precision"], workload), {"pagoda": [], "genai": []})
        found[line["engine"]].append(line)
    for (precision, workload), found in sorted(groups.items()):
        if all(found.values()):
            rows.append(f"| {precision} | {workload} {_row(found['pagoda'], found['genai'])}")
    return "\n".join(rows)


def _row(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> str:
    ratio = _median(theirs, "seconds") / _median(ours, "seconds")
    pairs = [their["seconds"] / our["seconds"] for our, their in zip(ours, theirs, strict=False)]
    cells = [_spread(ours), _spread(theirs), f"{ratio:.2f}", f"{statistics.median(pairs):.2f}"]
    if "cpu" in ours[0]:
        cells.append(f"{_median(theirs, 'cpu') / _median(ours, 'cpu'):.2f}")
    else:
        peaks = (_median(lines, "peak") / 2**30 for lines in (ours, theirs))
        cells.append("peak memory {:.2f} and {:.2f} GiB".format(*peaks))
    cells.append(f"{_median(ours, 'host ms'):.2f}" if "host ms" in ours[0] else "")
    return "".join(f"| {cell} " for cell in cells) + "|"


def _median(lines: list[dict[str, Any]], key: str) -> float:
    return float(statistics.median(line[key] for line in lines))


def _spread(lines: list[dict[str, Any]]) -> str:
    seconds = sorted(line["seconds"] for line in lines)
    return f"{statistics.median(seconds):.2f} ({seconds[0]:.2f} to {seconds[-1]:.2f})"


if __name__ == "__main__":
    main()
