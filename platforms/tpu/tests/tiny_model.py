"""A small random model on the TPU platform's runner, with few and small buckets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pagoda.models.info import read_model_info
from pagoda.platform import ModelInfo, RunnerConfig
from pagoda_xla.buckets import BucketRule

RULE = BucketRule(rows=(8,), tokens=(32,), tile=16)


def write_config(folder: Path, heads: int = 8, kv_heads: int = 4, head_dim: int = 64) -> ModelInfo:
    config = {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "torch_dtype": "float32",
        "hidden_size": 256, "intermediate_size": 384, "num_hidden_layers": 2, "vocab_size": 512,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": head_dim,
        "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "hidden_act": "silu",
        "tie_word_embeddings": False,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return read_model_info(folder)


def make_runner(
    folder: Path,
    num_devices: int = 1,
    head_dim: int = 64,
    attention: str = "pallas",
    rule: BucketRule = RULE,
    info: ModelInfo | None = None,
    **config: Any,
) -> Any:
    """The runner of emulated devices, random weights unless ``info`` names a checkpoint.  The
    environment must be settled."""
    from pagoda_tpu.pallas_kernel import PallasKernel
    from pagoda_xla.family import XlaFamily
    from pagoda_xla.gather_attention import GatherKernel
    from pagoda_xla.runner import XlaRunner
    from pagoda_xla.torch_xla_runtime import TorchXlaRuntime

    fields: dict[str, Any] = {
        "dtype": "float32", "max_model_len": 256, "max_tokens": 32, "max_requests": 8,
        "steps_in_flight": 2, "load_format": "auto" if info else "dummy",
        "tensor_parallel_size": num_devices,
    }  # fmt: skip
    runtime = TorchXlaRuntime(0, num_devices)
    kernel = GatherKernel() if attention == "gather" else PallasKernel(runtime)
    family = XlaFamily(runtime, [kernel], rule, default_block_size=32)
    info = info or write_config(folder, head_dim=head_dim)
    return XlaRunner(RunnerConfig(**{**fields, **config}), info, family)


def greedy(runner: Any, prompts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
    """``count`` tokens for every prompt, all decoded together, two steps in flight."""
    import dataclasses

    import numpy as np

    from pagoda.platform import PENDING, BlockTable
    from pagoda_torch.trial import trial_batch

    each = -(-(max(map(len, prompts)) + count) // runner.block_size)
    rows = len(prompts)
    blocks = np.arange(rows * each, dtype=np.int32)[::-1].reshape(rows, each).copy()
    handles = []
    for row, prompt in enumerate(prompts):
        table = BlockTable(blocks[row : row + 1], np.full(1, each, np.int32))
        batch = dataclasses.replace(
            trial_batch(0, len(prompt)),
            slots=np.array([row], np.int32),
            token_ids=np.array(prompt, np.int32),
            block_tables=(table,),
        )
        handles.append(runner.submit(batch))
    found = [handle.result().token_ids.tolist() for handle in handles]
    context = np.array([len(prompt) for prompt in prompts], np.int32)
    handles = []
    for step in range(count - 1):
        batch = dataclasses.replace(
            trial_batch(0, 1, rows),
            admitted=np.zeros(rows, np.bool_),
            token_ids=np.full(rows, PENDING, np.int32),
            context_lens=context + step,
            block_tables=(BlockTable(blocks, np.full(rows, each, np.int32)),),
        )
        handles.append(runner.submit(batch))
    for handle in handles:
        for row, token in enumerate(handle.result().token_ids.tolist()):
            found[row].append(token)
    return found
