"""One engine, one model, its workloads: a JSON line each, medians of timed runs after a warm-up.

python one.py ENGINE MODEL [--runs N] [--only NAME]
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import statistics
import time

STARTED = time.perf_counter()

from engines import ENGINES, Run  # noqa: E402  (imports count as start-up)
from workloads import Workload, workloads  # noqa: E402

DISTRIBUTIONS = {"pagoda": "pagoda-llm", "vllm": "vllm"}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("model")
    parser.add_argument("--runs", type=int, default=3, help="timed runs of each workload")
    parser.add_argument("--only", default="", help="workloads whose name has this in it")
    parser.add_argument("--profile", action="store_true", help="then say where the time goes")
    given = parser.parse_args()
    named = {"engine": f"{given.engine}-{importlib.metadata.version(DISTRIBUTIONS[given.engine])}"}
    run = ENGINES[given.engine](given.model)
    first = Workload("first", given.model, [[11, 12, 13]], [1])
    run(first, -1)
    seconds = time.perf_counter() - STARTED
    print(json.dumps({**named, "model": given.model, "startup_s": round(seconds, 2)}), flush=True)
    for workload in workloads():
        if workload.model == given.model and given.only in workload.name:
            print(json.dumps({**named, **measure(run, workload, given.runs)}), flush=True)
            if given.profile:
                print(profile(run, workload), flush=True)


def measure(run: Run, workload: Workload, num_runs: int) -> dict[str, object]:
    """Times in seconds; fails when an engine gave fewer tokens than asked for."""
    times, cold = [], 0.0
    for number in range(num_runs + 1):
        start = time.perf_counter()
        found = run(workload, number)
        seconds = time.perf_counter() - start
        if [len(tokens) for tokens in found] != workload.num_outputs:
            raise SystemExit(f"{workload.name}: the engine gave other numbers of tokens")
        if number:
            times.append(seconds)
        else:
            cold = seconds
    median = statistics.median(times)
    return {
        "workload": workload.name,
        "s": round(median, 4),
        "min_s": round(min(times), 4),
        "max_s": round(max(times), 4),
        "warm_up_s": round(cold, 3),
        "out_tok_s": round(sum(workload.num_outputs) / median, 1),
        "in_tok_s": round(sum(map(len, workload.prompts)) / median, 1),
    }


def profile(run: Run, workload: Workload, num_outputs: int = 24) -> str:
    """Kernels by device time, host calls by their own, and every call that waits for the device,
    over at most so many tokens a prompt.  Sees engines that run in this process alone."""
    import torch
    from torch.profiler import ProfilerActivity

    short = dataclasses.replace(
        workload, num_outputs=[min(count, num_outputs) for count in workload.num_outputs]
    )
    run(short, -2)
    with torch.profiler.profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        start = time.perf_counter()
        run(short, -3)
        seconds = time.perf_counter() - start
    events = seen.key_averages()
    device = sorted(events, key=lambda e: -e.self_device_time_total)[:20]
    host = sorted(events, key=lambda e: -e.self_cpu_time_total)[:12]
    waits = [e for e in events if "Synchronize" in e.key and e not in host]
    lines = [f"{workload.name}, {max(short.num_outputs)} tokens a prompt: {seconds * 1e3:.1f} ms"]
    lines += [
        f"  device {e.self_device_time_total / 1e3:9.2f} ms {e.count:6d} x {e.key[:80]}"
        for e in device
    ]
    lines += [
        f"  host   {e.self_cpu_time_total / 1e3:9.2f} ms {e.count:6d} x {e.key[:80]}"
        for e in [*host, *waits]
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
