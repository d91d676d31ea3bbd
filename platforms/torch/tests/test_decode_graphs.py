"""Recorded decode steps give the tokens of plain ones: a capture that runs the work again, over an
attention that can be recorded."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from shared_assets import assets, stories260k
from torch import Tensor

from pagoda.models.info import read_model_info
from pagoda.platform import BlockTable, RunnerConfig, SamplingBatch, ScheduledBatch
from pagoda_torch.attention import AttentionSpec, DecodeRows
from pagoda_torch.decode_graphs import batch_sizes
from pagoda_torch.family import TorchFamily
from pagoda_torch.gather_attention import GatherAttention
from pagoda_torch.runner import TorchRunner

__all__ = ["assets", "stories260k"]


class RecordedGather(GatherAttention):
    """Row by row from what the buffers hold when the work is run."""

    name = "recorded gather"
    can_record = True

    def plan_recorded(self, rows: DecodeRows) -> DecodeRows:
        return rows

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, cache: Tensor, plan: Any, layer: AttentionSpec
    ) -> Tensor:
        if not isinstance(plan, DecodeRows):
            return super().forward(q, k, v, cache, plan, layer)
        out = torch.zeros(len(q), layer.num_heads, layer.head_size)
        size = cache.shape[2]
        for row, length in enumerate(plan.lens.tolist()):
            if not length:
                continue
            slot = int(plan.cache_slots[row])
            cache[0, slot // size, slot % size] = k[row]
            cache[1, slot // size, slot % size] = v[row]
            start = int(plan.block_start[row])
            blocks = plan.blocks[start : start + -(-length // size)].long()
            group = layer.num_heads // layer.num_kv_heads
            keys, values = (
                cache[part, blocks].flatten(0, 1)[:length].repeat_interleave(group, 1)
                for part in (0, 1)
            )
            weights = torch.einsum("hd,khd->hk", q[row], keys).mul(layer.scale).softmax(-1)
            out[row] = torch.einsum("hk,khd->hd", weights, values)
        return out.flatten(1)


class Again:
    """Implements GraphCapture by running the work again."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def record(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        output = work()
        self.recorded += 1

        def replay() -> None:
            self.replayed += 1
            output.copy_(work())

        return replay, output


@dataclass(frozen=True)
class Ready:
    arrays: dict[str, np.ndarray]

    def wait(self) -> dict[str, np.ndarray]:
        return self.arrays


class Host:
    """The CPU, with results that a later step does not overwrite."""

    device = torch.device("cpu")
    overlaps = False

    def memory(self) -> tuple[int, int]:
        return 1 << 30, 1 << 30

    def peak_bytes(self, work: Callable[[], None]) -> int:
        work()
        return 1 << 20

    def upload(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array)

    def launch(self, work: Callable[[], Mapping[str, Tensor]]) -> Ready:
        return Ready({name: tensor.clone().numpy() for name, tensor in work().items()})

    def close(self) -> None:
        pass


def make(folder: Path, graphs: Again | None, **more: Any) -> TorchRunner:
    family = TorchFamily(device=Host(), attention=[RecordedGather()], graphs=graphs, **more)
    config = RunnerConfig(dtype="float32", max_model_len=128, max_tokens=64, max_requests=6)
    runner = TorchRunner(config, read_model_info(folder / "hf"), family)
    runner.load()
    runner.free_kv_bytes()
    runner.init_kv_cache(64)
    return runner


def step(tokens: list[list[int]], contexts: list[int], temperature: float = 0) -> ScheduledBatch:
    """Rows in slots and blocks of their own, 8 blocks each."""
    rows = len(tokens)
    blocks = np.arange(rows * 8, dtype=np.int32).reshape(rows, 8)[:, ::-1] + 3
    every, ones = np.arange(rows, dtype=np.int32), np.ones(rows, np.float32)
    return ScheduledBatch(
        slots=every[::-1].copy(),
        admitted=np.array(contexts) == 0,
        query_start=np.cumsum([0, *map(len, tokens)]).astype(np.int32),
        token_ids=np.concatenate(tokens).astype(np.int32),
        context_lens=np.array(contexts, np.int32),
        block_tables=(BlockTable(blocks, np.full(rows, 8, np.int32)),),
        sample_rows=every,
        sampling=SamplingBatch(
            temperature=ones * np.float32(temperature),
            top_k=np.zeros(rows, np.int32),
            top_p=ones * np.float32(0.9),
            min_p=ones * 0,
            uniform=(every + 0.5).astype(np.float32) / rows,
            num_logprobs=np.full(rows, 1 if temperature else -1, np.int32),
        ),
    )


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("rows", [1, 3, 5])
def test_same_tokens_as_plain_steps(stories260k: Path, rows: int, temperature: float) -> None:
    graphs = Again()
    found = []
    for runner in (make(stories260k, graphs), make(stories260k, None)):
        prompts = [[1, *range(10 + row, 14 + 3 * row)] for row in range(rows)]
        contexts = [len(prompt) for prompt in prompts]
        handles = [runner.submit(step(prompts, [0] * rows, temperature))]
        for _ in range(5):  # the tokens stay on the device
            handles.append(runner.submit(step([[-1]] * rows, contexts, temperature)))
            contexts = [context + 1 for context in contexts]
        found.append([handle.result().token_ids.tolist() for handle in handles])
        runner.close()
    assert found[0] == found[1]
    assert (graphs.recorded, graphs.replayed) == (1, 5)


def test_rehearsed_steps_leave_nothing_behind(stories260k: Path) -> None:
    """They run before there are weights, and are awaited once there are."""
    done = []

    def ahead(steps: Callable[[], None]) -> Callable[[], None]:
        steps()
        done.append("rehearsed")
        return lambda: done.append("awaited")

    found = []
    for runner in (make(stories260k, Again(), compile_ahead=ahead), make(stories260k, None)):
        handles = [runner.submit(step([[1, 10, 11], [1, 12]], [0, 0]))]
        handles += [runner.submit(step([[-1], [-1]], [3 + i, 2 + i])) for i in range(5)]
        found.append([handle.result().token_ids.tolist() for handle in handles])
        runner.close()
    assert done == ["rehearsed", "awaited"]
    assert found[0] == found[1]


def test_golden_tokens(stories260k: Path) -> None:
    graphs = Again()
    golden = json.loads((stories260k / "golden_greedy_fp32.json").read_text())[0]
    runner = make(stories260k, graphs)
    prompt = golden["prompt_ids"]
    tokens = runner.submit(step([prompt], [0])).result().token_ids.tolist()
    for i in range(20):
        batch = step([tokens[-1:]], [len(prompt) + i])
        tokens += runner.submit(batch).result().token_ids.tolist()
    assert tokens == golden["output_ids"][:21]
    assert graphs.recorded == 1


def test_sizes() -> None:
    assert batch_sizes(1) == [1]
    assert batch_sizes(6) == [1, 2, 4, 6]
    assert batch_sizes(256)[-2:] == [240, 256]
    assert batch_sizes(1024) == sorted(set(batch_sizes(1024)))
