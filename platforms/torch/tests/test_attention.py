"""Gather attention against a plain loop over tokens: windows, soft caps, poisoned caches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pagoda.platform import BlockTable, ScheduledBatch
from pagoda_cpu.device import CpuDevice
from pagoda_torch.attention import AttentionSpec
from pagoda_torch.gather_attention import GROUP_KEYS, GatherAttention
from pagoda_torch.step import make_step
from pagoda_torch.trial import trial_batch

LENGTHS = {
    "decodes": [(5, 1), (0, 1), (300, 1), (17, 1), (299, 1)],
    "equal decodes": [(40, 1)] * 3,
    "far apart": [(3000, 1), *[(7, 1)] * 20],
    "prompts": [(0, 3), (0, 70), (0, 3), (0, 100)],
    "mixed": [(9, 1), (0, 80), (30, 65), (4, 3), (7, 3), (0, 1)],
}


def plain(q, keys, values, context, spec):  # type: ignore[no-untyped-def]
    """One request, token by token, head by head: q [Q, heads, D], keys [K, kv heads, D]."""
    out = torch.empty_like(q)
    group = spec.num_heads // spec.num_kv_heads
    for i in range(len(q)):
        own = context + i
        first = 0 if spec.window is None else max(0, own - spec.window + 1)
        for head in range(spec.num_heads):
            k, v = keys[first : own + 1, head // group], values[first : own + 1, head // group]
            scores = k @ q[i, head] * spec.scale
            if spec.soft_cap is not None:
                scores = spec.soft_cap * torch.tanh(scores / spec.soft_cap)
            out[i, head] = scores.softmax(0) @ v
    return out.flatten(1)


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize(("window", "soft_cap"), [(None, None), (6, None), (None, 2.0), (6, 2.0)])
def test_equals_plain_attention(
    lengths: list[tuple[int, int]], window: int | None, soft_cap: float | None
) -> None:
    seed = 11
    print("seed", seed)
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    spec = AttentionSpec(4, 2, 8, 0.3, window, soft_cap)
    context, query = (np.array(x, np.int32) for x in zip(*lengths, strict=True))
    size = 16
    counts = -(-(context + query) // size)
    blocks = rng.permutation(int(counts.sum()) + 3).astype(np.int32)
    table = np.full((len(counts), int(counts.max())), -1, np.int32)
    table[np.arange(table.shape[1]) < counts[:, None]] = blocks[: counts.sum()]
    tokens = int(query.sum())
    batch = ScheduledBatch(
        slots=np.arange(len(counts), dtype=np.int32),
        admitted=context == 0,
        query_start=np.cumsum([0, *query]).astype(np.int32),
        token_ids=np.zeros(tokens, np.int32),
        context_lens=context,
        block_tables=(BlockTable(table, counts.astype(np.int32)),),
        sample_rows=np.zeros(0, np.int32),
        sampling=trial_batch(0, 1).sampling,
    )
    backend, device = GatherAttention(), CpuDevice(1)
    cache = torch.full(backend.cache_shape(len(blocks), size, spec), float("nan"))
    keys, values = ([torch.randn(c + n, 2, 8) for c, n in lengths] for _ in range(2))
    flat = cache.view(2, -1, 2, 8)
    for row, done in enumerate(context):
        where = torch.from_numpy(
            np.repeat(table[row, : counts[row]].astype(np.int64) * size, size)
            + np.tile(np.arange(size), counts[row])
        )[:done]
        flat[0, where], flat[1, where] = keys[row][:done], values[row][:done]
    q = torch.randn(tokens, 4, 8)
    new = [torch.cat([x[c:] for x, c in zip(s, context, strict=True)]) for s in (keys, values)]
    step = make_step(batch, size, device, torch.float32, torch.zeros(64, dtype=torch.int64))
    found = backend.forward(q, new[0], new[1], cache, backend.plan(step), spec)
    start = batch.query_start
    wanted = [
        plain(q[start[i] : start[i + 1]], keys[i], values[i], int(context[i]), spec)
        for i in range(len(counts))
    ]
    torch.testing.assert_close(found, torch.cat(wanted), atol=2e-6, rtol=1e-5)


def test_groups_stay_few_and_small() -> None:
    context = np.array([GROUP_KEYS // 2] * 5 + [10] * 40 + [12] * 40, np.int32)
    rows = len(context)
    batch = ScheduledBatch(
        slots=np.arange(rows, dtype=np.int32),
        admitted=np.zeros(rows, np.bool_),
        query_start=np.arange(rows + 1, dtype=np.int32),
        token_ids=np.zeros(rows, np.int32),
        context_lens=context,
        block_tables=(BlockTable(np.zeros((rows, GROUP_KEYS), np.int32), np.ones(rows, np.int32)),),
        sample_rows=np.zeros(0, np.int32),
        sampling=trial_batch(0, 1).sampling,
    )
    step = make_step(batch, 16, CpuDevice(1), torch.float32, torch.zeros(8, dtype=torch.int64))
    groups = GatherAttention().plan(step).groups(None)
    assert sorted(group.num_rows for group in groups) == [1, 1, 1, 1, 1, 80]
