"""The runner on the CPU: golden tokens, PENDING, limits, block copies, lifecycle."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from pagoda.platform import PagodaError


@pytest.mark.parametrize(("block_size", "budget"), [(16, 512), (8, 16)])
def test_golden(stories260k: Path, play: ModuleType, block_size: int, budget: int) -> None:
    golden = json.loads((stories260k / "golden_greedy_fp32.json").read_text())
    runner = play.load(stories260k / "hf", block_size=block_size, max_model_len=512)
    driver = play.Driver(runner, 400, 256)
    sequences = [driver.add(i, g["prompt_ids"]) for i, g in enumerate(golden)]
    driver.generate(sequences, 200, budget)
    for s, g in zip(sequences, golden, strict=True):
        assert s.tokens[s.num_prompt :] == g["output_ids"][:200]


def test_pending_tokens_come_from_the_step_before(stories260k: Path, play: ModuleType) -> None:
    runner = play.load(stories260k / "hf")
    driver = play.Driver(runner, 64, 64)
    alone = driver.add(0, [1, 2, 3])
    driver.generate([alone], 6)
    again = driver.add(5, [1, 2, 3])
    handles = [runner.submit(driver.batch([(again, 3)]))]
    again.cached = 3
    for _ in range(5):
        again.tokens.append(0)  # not known yet
        handles.append(runner.submit(driver.batch([(again, 1)], pending=True)))
        again.cached += 1
    assert [int(h.result().token_ids[0]) for h in handles] == alone.tokens[3:]


def test_refusals(stories260k: Path, play: ModuleType) -> None:
    runner = play.load(stories260k / "hf", max_tokens=8, max_requests=2, max_model_len=32)
    driver = play.Driver(runner, 16, 32)
    a, b, c = (driver.add(i, [1, 2, 3]) for i in range(3))
    with pytest.raises(PagodaError, match="9 tokens"):
        runner.submit(driver.batch([(a, 3), (b, 3), (c, 3)]))
    with pytest.raises(PagodaError, match="PENDING"):
        runner.submit(driver.batch([(a, 1)], pending=True))
    a.cached = 32
    a.tokens += [1] * 30
    with pytest.raises(PagodaError, match="33 tokens in a sequence"):
        runner.submit(driver.batch([(a, 1)]))


def test_copied_blocks_serve_a_fork(stories260k: Path, play: ModuleType) -> None:
    runner = play.load(stories260k / "hf")
    driver = play.Driver(runner, 64, 64)
    first = driver.add(0, [1, *range(10, 40)])
    driver.generate([first], 8)
    fork = driver.add(1, first.tokens[:31])
    fork.cached = 30
    batch = driver.batch([(fork, 1)])
    copies = np.array([first.blocks[:2], fork.blocks[:2]], np.int32).T
    object.__setattr__(batch, "block_copies", np.ascontiguousarray(copies))
    assert runner.submit(batch).result().token_ids[0] == first.tokens[31]


def test_a_step_may_sample_nothing(stories260k: Path, play: ModuleType) -> None:
    runner = play.load(stories260k / "hf")
    driver = play.Driver(runner, 64, 64)
    result = driver.step([(driver.add(0, [1, 2, 3, 4]), 2)])
    assert len(result.token_ids) == 0


def test_close_twice_and_load_again(stories260k: Path, play: ModuleType) -> None:
    for _ in range(2):
        runner = play.load(stories260k / "hf")
        driver = play.Driver(runner, 16, 32)
        driver.generate([driver.add(0, [1, 2])], 2)
        runner.close()
        runner.close()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sixteen_bits_stay_close(stories260k: Path, play: ModuleType, dtype: str) -> None:
    rng = np.random.default_rng(3)
    prompts = [rng.integers(3, 500, n).tolist() for n in (1, 9, 80)]
    found: dict[str, Any] = {}
    for name in ("float32", dtype):
        driver = play.Driver(play.load(stories260k / "hf", dtype=name), 64, 128)
        sequences = [driver.add(i, p) for i, p in enumerate(prompts)]
        driver.step([(s, s.num_prompt) for s in sequences])
        found[name] = np.stack([s.logits[0] for s in sequences])
    scale = np.abs(found["float32"]).max()
    assert np.abs(found[dtype] - found["float32"]).max() < 0.05 * scale


def test_nothing_heavy_is_imported_needlessly(stories260k: Path) -> None:
    """The plugin imports no torch, a native model no transformers: start-up time."""
    program = """
import sys
from pagoda_cpu import plugin
from pagoda.models.info import read_model_info
from pagoda.platform import RunnerConfig
devices = plugin.pagoda_probe()
plugin.pagoda_capabilities(None, devices)
print("torch" in sys.modules)
config = RunnerConfig(dtype="float32", max_model_len=64)
runner = plugin.pagoda_create_runner(config, read_model_info(sys.argv[1]), devices)
runner.load()
runner.init_kv_cache(4)
runner.warm_up()
print("transformers" in sys.modules)
"""
    command = [sys.executable, "-c", program, str(stories260k / "hf")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.split() == ["False", "False"]
