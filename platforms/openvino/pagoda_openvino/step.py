"""A scheduled step as the graph's inputs; what was not agreed is refused first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from pagoda.platform import PENDING, PagodaError, RunnerConfig, ScheduledBatch
from pagoda.platform.batch import Int32

Array = npt.NDArray[Any]
Index = npt.NDArray[np.intp]
Inputs: TypeAlias = dict[str, Array]
"""By the graph's names."""


def logit_rows(batch: ScheduledBatch) -> Int32:
    """[N] the tokens whose logits are wanted: those to be continued, then those to be scored."""
    if batch.score is None:
        return batch.logit_index
    return np.concatenate([batch.logit_index, batch.score.token_rows])


def inferences(
    batch: ScheduledBatch, block_size: int, most_tokens: int
) -> Iterator[tuple[Inputs, Index]]:
    """The step's inferences, one after the other, none of more tokens than that; and which of
    ``logit_rows`` each gives logits for."""
    num_tokens, rows, starts = len(batch.token_ids), logit_rows(batch), batch.query_start
    count = max(1, -(-num_tokens // most_tokens))
    for part in range(count):
        tokens = slice(num_tokens * part // count, num_tokens * (part + 1) // count)
        first, last = 0, len(batch.slots)
        if count > 1:  # the requests of these tokens
            first = int(np.searchsorted(starts, tokens.start, "right")) - 1
            last = int(np.searchsorted(starts, tokens.stop))
        wanted = np.flatnonzero((rows >= tokens.start) & (rows < tokens.stop))
        inputs = _inputs(batch, block_size, slice(first, last), tokens)
        yield {**inputs, "logit_rows": (rows[wanted] - tokens.start).astype(np.int64)}, wanted


def _inputs(batch: ScheduledBatch, block_size: int, requests: slice, tokens: slice) -> Inputs:
    table = batch.block_tables[0].ids[requests]
    starts = batch.query_start[requests.start : requests.stop + 1]
    begins = np.clip(starts, tokens.start, tokens.stop) - tokens.start
    past = batch.context_lens[requests] + np.maximum(tokens.start - starts[:-1], 0)
    seq_lens = past + np.diff(begins)
    needed = -(-seq_lens // block_size)  # [R] blocks; a table may be ahead of its tokens
    block_begins = np.zeros(len(needed) + 1, np.int32)
    np.cumsum(needed, out=block_begins[1:])
    return {
        "token_ids": batch.token_ids[tokens].astype(np.int64),
        "positions": batch.positions[tokens].astype(np.int64),
        "past_lens": past.astype(np.int32),
        "subsequence_begins": begins.astype(np.int32),
        "block_indices": table[np.arange(table.shape[1]) < needed[:, None]],
        "block_indices_begins": block_begins,
        "max_context_len": np.array(seq_lens.max(initial=0), np.int32),
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
