"""A made-up step for warming up, before there are requests."""

from __future__ import annotations

import numpy as np

from pagoda.platform import BlockTable, SamplingBatch, ScheduledBatch


def trial_batch(context: int, query: int) -> ScheduledBatch:
    """One request in slot 0 and block 0, greedy."""
    return ScheduledBatch(
        slots=np.zeros(1, np.int32),
        admitted=np.ones(1, np.bool_),
        query_start=np.array([0, query], np.int32),
        token_ids=np.zeros(query, np.int32),
        context_lens=np.array([context], np.int32),
        block_tables=(BlockTable(np.zeros((1, 1), np.int32), np.ones(1, np.int32)),),
        sample_rows=np.zeros(1, np.int32),
        sampling=SamplingBatch(
            temperature=np.zeros(1, np.float32),
            top_k=np.zeros(1, np.int32),
            top_p=np.ones(1, np.float32),
            min_p=np.zeros(1, np.float32),
            uniform=np.zeros(1, np.float32),
            num_logprobs=np.full(1, -1, np.int32),
        ),
    )
