"""The runner with the Triton kernels: golden tokens, in prompts, decodes and recorded steps.

On a GPU where there is one.  Else in Triton's interpreter, where a step takes seconds."""

from __future__ import annotations

import json
from pathlib import Path

import kernel_mode
import numpy as np
import pytest
import torch

from pagoda.models.info import read_model_info
from pagoda.platform import BlockTable, RunnerConfig, SamplingBatch, ScheduledBatch
from pagoda_torch.family import GraphCapture, TorchFamily
from pagoda_torch.runner import TorchRunner

LATER_STEPS = 6 if kernel_mode.on_gpu() else 1


@pytest.fixture(autouse=True)
def kernels() -> None:
    kernel_mode.skip_or_prepare()


def family() -> TorchFamily:
    from pagoda_torch.gpu.device import GpuDevice
    from pagoda_torch.gpu.graphs import CudaGraphs
    from pagoda_torch.triton.attention import TritonAttention
    from pagoda_torch.triton.ops import OPS

    if kernel_mode.on_gpu():
        device = GpuDevice(torch.device("cuda", 0))
        graphs: GraphCapture = CudaGraphs(device.device)
        return TorchFamily(device=device, attention=[TritonAttention()], ops=OPS, graphs=graphs)
    from pagoda_triton_interpret.device import InterpretedDevice

    stand_in = InterpretedDevice()
    return TorchFamily(device=stand_in, attention=[TritonAttention()], ops=OPS, graphs=stand_in)


def step(tokens: list[list[int]], contexts: list[int]) -> ScheduledBatch:
    """Greedy rows in slots and blocks of their own, 4 blocks each."""
    rows = len(tokens)
    every, zeros = np.arange(rows, dtype=np.int32), np.zeros(rows, np.float32)
    blocks = np.arange(rows * 4, dtype=np.int32).reshape(rows, 4)[:, ::-1] + 3
    return ScheduledBatch(
        slots=every[::-1].copy(),
        admitted=np.array(contexts) == 0,
        query_start=np.cumsum([0, *map(len, tokens)]).astype(np.int32),
        token_ids=np.concatenate(tokens).astype(np.int32),
        context_lens=np.array(contexts, np.int32),
        block_tables=(BlockTable(blocks, np.full(rows, 4, np.int32)),),
        sample_rows=every,
        sampling=SamplingBatch(zeros, every * 0, zeros + 1, zeros, zeros, every * 0 - 1),
    )


def poisoned_runner(stories260k: Path) -> TorchRunner:
    """In float32, over a cache of 16 blocks of NaN."""
    config = RunnerConfig(dtype="float32", max_model_len=64, max_tokens=128, max_requests=4)
    runner = TorchRunner(config, read_model_info(stories260k / "hf"), family())
    runner.load()
    if not kernel_mode.on_gpu():  # padding rows share a slot that nobody reads
        from pagoda_triton_interpret import sanitizer

        sanitizer.shared_places.add(runner._last_tokens[-1].data_ptr())
    runner.init_kv_cache(16)
    for layer in runner.context.attention_layers:
        layer.cache.fill_(float("nan"))
    return runner


def test_golden_tokens(stories260k: Path) -> None:
    golden = json.loads((stories260k / "golden_greedy_fp32.json").read_text())[:2]
    prompts = [case["prompt_ids"] for case in golden]
    wanted = [case["output_ids"] for case in golden]
    runner = poisoned_runner(stories260k)
    contexts = [len(prompt) for prompt in prompts]
    handles = [runner.submit(step(prompts, [0, 0]))]
    for _ in range(12 if kernel_mode.on_gpu() else 1):  # the tokens stay on the device
        handles.append(runner.submit(step([[-1]] * 2, contexts)))
        contexts = [context + 1 for context in contexts]
    found = np.stack([handle.result().token_ids for handle in handles], 1)
    assert found.tolist() == [tokens[: found.shape[1]] for tokens in wanted]
    runner.close()


def test_shared_blocks_are_read_once(stories260k: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same tokens, whether the block both rows begin with is read once or for each."""
    first, rest = [1, *range(10, 25)], [[30, 31], [40, 41, 42]]
    found = []
    for least in (1, 1 << 30):
        monkeypatch.setattr("pagoda_torch.sharing.LEAST_SAVED", least)
        runner = poisoned_runner(stories260k)

        def shared(tokens: list[list[int]], contexts: list[int]) -> ScheduledBatch:
            batch = step(tokens, contexts)
            batch.block_tables[0].ids[:, 0] = 1
            return batch

        runner.submit(shared([first], [0])).result()
        steps = [shared(rest, [16, 16])]
        steps += [shared([[-1]] * 2, [18 + i, 19 + i]) for i in range(LATER_STEPS)]
        handles = [runner.submit(batch) for batch in steps]
        found.append([handle.result().token_ids.tolist() for handle in handles])
        assert runner._graphs is not None
        assert {sharing for _, _, sharing in runner._graphs._recorded} == {least == 1}
        runner.close()
    assert found[0] == found[1]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rows", [1, 3])
def test_decode_steps_never_wait(stories260k: Path, dtype: str, rows: int) -> None:
    """PyTorch raises at every call that would wait for the GPU."""
    if not kernel_mode.on_gpu():
        pytest.skip("no GPU")
    config = RunnerConfig(dtype=dtype, max_model_len=64, max_tokens=128, max_requests=4)
    runner = TorchRunner(config, read_model_info(stories260k / "hf"), family())
    runner.load()
    runner.init_kv_cache(20)
    handles = [runner.submit(step([[1, 2, 3, 4, 5]] * rows, [0] * rows))]
    try:
        for i in range(12):
            if i == 2:  # what is compiled or recorded at first use is done
                torch.cuda.set_sync_debug_mode("error")
            handles.append(runner.submit(step([[-1]] * rows, [5 + i] * rows)))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    tokens = np.stack([handle.result().token_ids for handle in handles])
    assert tokens.shape == (13, rows) and (tokens == tokens[:, :1]).all()
    runner.close()
