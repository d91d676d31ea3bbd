"""A scheduled step as the graph's inputs; what was not agreed is refused first."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pagoda.platform import PENDING, PagodaError, RunnerConfig, ScheduledBatch

Array = npt.NDArray[Any]


def step_inputs(batch: ScheduledBatch, block_size: int) -> dict[str, Array]:
    """By the graph's names.  ``logit_rows`` are the sampled rows, then those to be scored."""
    table = batch.block_tables[0]
    needed = -(-batch.seq_lens // block_size)  # [R] blocks; a table may be ahead of its tokens
    live = np.arange(table.ids.shape[1]) < needed[:, None]
    begins = np.zeros(len(needed) + 1, np.int32)
    np.cumsum(needed, out=begins[1:])
    rows = batch.logit_index
    if batch.score is not None:
        rows = np.concatenate([rows, batch.score.token_rows])
    return {
        "token_ids": batch.token_ids.astype(np.int64),
        "positions": batch.positions.astype(np.int64),
        "logit_rows": rows.astype(np.int64),
        "past_lens": batch.context_lens,
        "subsequence_begins": batch.query_start,
        "block_indices": table.ids[live],
        "block_indices_begins": begins,
        "max_context_len": np.array(batch.seq_lens.max(initial=0), np.int32),
    }


def check_batch(
    batch: ScheduledBatch, config: RunnerConfig, vocab_size: int, num_blocks: int, block_size: int
) -> None:
    """Raise PagodaError for a step beyond what was agreed: the graph would read and write past its
    memory, since OpenVINO checks none of this."""
    longest = int(batch.seq_lens.max(initial=0))
    for found, most, what in (
        (len(batch.token_ids), config.max_tokens, "tokens"),
        (len(batch.slots), config.max_requests, "requests"),
        (longest, config.max_model_len, "tokens in a sequence"),
    ):
        if found > most:
            raise PagodaError(f"a step of {found} {what}; {most} were agreed")
    tokens = batch.token_ids
    if (tokens == PENDING).any():
        raise PagodaError("PENDING tokens in a step, and steps_in_flight is 1")
    if len(tokens) and (tokens.min() < 0 or tokens.max() >= vocab_size):
        raise PagodaError(f"token ids outside 0 .. {vocab_size - 1}")
    if len(batch.block_tables) != 1:
        raise PagodaError(f"{len(batch.block_tables)} block tables for one KV group")
    table = batch.block_tables[0]
    needed = -(-batch.seq_lens // block_size)
    if (needed > table.counts).any():
        raise PagodaError("a request has fewer blocks than its tokens need")
    used = table.ids[np.arange(table.ids.shape[1]) < needed[:, None]]
    if len(used) and (used.min() < 0 or used.max() >= num_blocks):
        raise PagodaError(f"block ids outside 0 .. {num_blocks - 1}")
