"""Hand-built steps through the CPU runner, without engine: where their time goes, by weight format.

    python ci/bench/cpu/steps.py [--quantization none,int8,int4] [--dtype bfloat16] [--threads 2]

Random weights in the shape of a config.json.  "beside the products": the same step of a model whose
matrices are tiny, so what is left is attention, norms and Python."""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from pathlib import Path

from pagoda.models.info import read_model_info
from pagoda.platform import ModelInfo, RunnerConfig
from pagoda_cpu.plugin import pagoda_create_runner
from pagoda_torch.runner import TorchRunner
from pagoda_torch.trial import trial_batch

MODEL = Path(__file__).parent / "models" / "qwen2.5-0.5b"
STEPS = ((128, 1, 1), (128, 1, 16), (1024, 1, 8), (128, 1, 64), (0, 128, 1), (0, 512, 1))
"""Tokens cached, tokens run, requests."""
TINY = {"hidden_size": 64, "intermediate_size": 64, "vocab_size": 512}


def tiny(info: ModelInfo) -> ModelInfo:
    """The same heads and layers, hardly any weights."""
    return dataclasses.replace(info, config={**info.config, **TINY}, vocab_size=TINY["vocab_size"])


def load(info: ModelInfo, dtype: str, quantization: str | None, threads: int) -> TorchRunner:
    config = RunnerConfig(
        dtype=dtype,
        quantization=quantization,
        load_format="dummy",
        max_model_len=2304,
        max_requests=64,
        platform_options={"cpu_threads": threads},
    )
    runner = pagoda_create_runner(config, info, [])
    assert isinstance(runner, TorchRunner)
    runner.load()
    runner.init_kv_cache(640)
    return runner


def measure(runner: TorchRunner, step: tuple[int, int, int], seconds: float) -> list[float]:
    """Milliseconds a step, best and median."""
    context, query, rows = step
    batch = trial_batch(context, query, rows, -(-(context + query) // runner.block_size))
    runner.submit(batch).result()
    times: list[float] = []
    started = time.perf_counter()
    while time.perf_counter() - started < seconds or len(times) < 2:
        before = time.perf_counter()
        runner.submit(batch).result()
        times.append((time.perf_counter() - before) * 1e3)
    return [min(times), statistics.median(times)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=str(MODEL), help="a folder with a config.json")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--quantization", default="none,int8,int4")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1.0)
    args = parser.parse_args()
    info = read_model_info(args.model)
    for name in args.quantization.split(","):
        for label, shape in (("whole", info), ("beside the products", tiny(info))):
            started = time.perf_counter()
            runner = load(shape, args.dtype, None if name == "none" else name, args.threads)
            print(f"{args.dtype} {name}, {label}: loaded in {time.perf_counter() - started:.1f} s")
            for step in STEPS:
                best, median = measure(runner, step, args.seconds)
                print(f"  {step[2]} x {step[1]} after {step[0]}: {best:.2f} ms ({median:.2f})")
            runner.close()


if __name__ == "__main__":
    main()
