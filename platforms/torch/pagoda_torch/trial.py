"""Made-up steps, for warming up and measuring before there are requests."""

from __future__ import annotations

import numpy as np

from pagoda.platform import BlockTable, SamplingBatch, ScheduledBatch


def trial_batch(
    context: int, query: int, rows: int = 1, num_blocks: int = 1, temperature: float = 0.0
) -> ScheduledBatch:
    """``rows`` requests alike, in slots from 0, all in blocks 0 to ``num_blocks`` - 1; tokens are
    the likeliest, or drawn by top_p when there is a temperature."""
    blocks = np.tile(np.arange(num_blocks, dtype=np.int32), (rows, 1))
    return ScheduledBatch(
        slots=np.arange(rows, dtype=np.int32),
        admitted=np.ones(rows, np.bool_),
        query_start=np.arange(rows + 1, dtype=np.int32) * query,
        token_ids=np.zeros(rows * query, np.int32),
        context_lens=np.full(rows, context, np.int32),
        block_tables=(BlockTable(blocks, np.full(rows, num_blocks, np.int32)),),
        sample_rows=np.arange(rows, dtype=np.int32),
        sampling=SamplingBatch(
            temperature=np.full(rows, temperature, np.float32),
            top_k=np.zeros(rows, np.int32),
            top_p=np.full(rows, 0.9 if temperature else 1.0, np.float32),
            min_p=np.zeros(rows, np.float32),
            uniform=np.zeros(rows, np.float32),
            num_logprobs=np.full(rows, -1, np.int32),
        ),
    )
