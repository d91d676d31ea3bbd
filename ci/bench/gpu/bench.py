"""Run the GPU workloads on Pagoda, and on vLLM where it is importable, and print the table.

    python ci/bench/gpu/bench.py [--model MODEL ...] [--runs N] [--output FILE]

Each engine and model gets a process of its own, so that start-up is honest and memory is free."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from workloads import MAX_MODEL_LEN  # noqa: E402

RECORDED = HERE / "vllm-0.24.0-h200.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", nargs="*", default=list(MAX_MODEL_LEN), choices=MAX_MODEL_LEN)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--output", type=Path, help="JSON lines are added to this file")
    given = parser.parse_args()
    engines = ["pagoda", *(["vllm"] if find_spec("vllm") else [])]
    lines: list[dict[str, Any]] = []
    for model in given.model:
        for engine in engines:
            lines += run_one(engine, model, given.runs)
    if given.output:
        with given.output.open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
    print(table(lines))


def run_one(engine: str, model: str, runs: int) -> list[dict[str, Any]]:
    """The lines that ``one.py`` printed; what else it says goes to the terminal."""
    command = [sys.executable, str(HERE / "one.py"), engine, model, "--runs", str(runs)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode:
        print(f"{engine} on {model} ended with status {done.returncode}", file=sys.stderr)
    return found


def table(lines: list[dict[str, Any]]) -> str:
    """Pagoda's figures beside vLLM's: of this session, else those recorded on an H200."""
    recorded = [json.loads(line) for line in RECORDED.read_text().splitlines()]
    theirs = {key(line): line for line in recorded}
    theirs |= {key(line): line for line in lines if line["engine"].startswith("vllm")}
    rows = ["| | Pagoda s (min to max) | vLLM s | vLLM / Pagoda |", "|---|---|---|---|"]
    for line in lines:
        if not line["engine"].startswith("pagoda"):
            continue
        other = theirs.get(key(line))
        seconds, reference = value(line), value(other) if other else None
        spread = f" ({line['min_s']} to {line['max_s']})" if "min_s" in line else ""
        ratio = f"{reference / seconds:.2f}" if reference else ""
        beside = f"{reference} ({other['engine']})" if other else ""
        rows.append(f"| {key(line)} | {seconds}{spread} | {beside} | {ratio} |")
    return "\n".join(rows)


def key(line: dict[str, Any]) -> str:
    return str(line.get("workload") or f"start-up/{line['model']}")


def value(line: dict[str, Any]) -> float:
    return float(line["s"] if "s" in line else line["startup_s"])


if __name__ == "__main__":
    main()
