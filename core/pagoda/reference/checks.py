"""What a runner may take for granted about a batch, checked: the reference trusts nobody."""

from __future__ import annotations

import numpy as np

from pagoda.platform.batch import PENDING, ScheduledBatch
from pagoda.platform.errors import PagodaError
from pagoda.platform.types import RunnerConfig


def check_batch(
    batch: ScheduledBatch, config: RunnerConfig, vocab_size: int, num_blocks: int, block_size: int
) -> None:
    """Raise PagodaError where a batch breaks the contract or exceeds what was agreed."""
    num_requests, num_tokens = len(batch.slots), len(batch.token_ids)
    _require(num_tokens <= config.max_tokens, f"{num_tokens} tokens, {config.max_tokens} agreed")
    _require(
        num_requests <= config.max_requests,
        f"{num_requests} requests, {config.max_requests} agreed",
    )
    if num_requests == 0:
        return
    _require(
        len(set(batch.slots.tolist())) == num_requests
        and batch.slots.min() >= 0
        and batch.slots.max() < config.max_requests,
        f"slots {batch.slots.tolist()} are not distinct and below {config.max_requests}",
    )
    lens, start = batch.query_lens, batch.query_start
    _require(
        start[0] == 0 and start[-1] == num_tokens and len(start) == num_requests + 1,
        f"query_start {start.tolist()} does not cut up {num_tokens} tokens",
    )
    _require(bool((lens > 0).all()), f"query lengths {lens.tolist()}")
    _require(bool((batch.context_lens >= 0).all()), f"context {batch.context_lens.tolist()}")
    longest = int(batch.seq_lens.max())
    _require(longest <= config.max_model_len, f"{longest} positions, {config.max_model_len} agreed")
    tokens = batch.token_ids
    pending = tokens == PENDING
    in_vocabulary = (tokens >= 0) & (tokens < vocab_size)
    _require(bool((pending | in_vocabulary).all()), f"token ids outside 0 .. {vocab_size - 1}")
    alone = lens[batch.rows] == 1
    _require(bool(alone[pending].all()), "a PENDING token that is not its query's only one")
    _check_blocks(batch, num_blocks, block_size)
    rows = batch.sample_rows
    _require(
        bool((np.diff(rows) > 0).all()) and bool((rows >= 0).all() and (rows < num_requests).all()),
        f"sample_rows {rows.tolist()} are not ascending requests",
    )


def _check_blocks(batch: ScheduledBatch, num_blocks: int, block_size: int) -> None:
    _require(len(batch.block_tables) == 1, f"{len(batch.block_tables)} block tables for 1 KV group")
    table = batch.block_tables[0]
    needed = -(-batch.seq_lens // block_size)
    _require(
        bool((table.counts >= needed).all() and (table.counts <= table.ids.shape[1]).all()),
        "a request has fewer blocks than its tokens need",
    )
    used, _ = table.ragged()
    _require(bool((used >= 0).all() and (used < num_blocks).all()), "block ids beyond the cache")
    written = batch.cache_slots(block_size)
    _require(len(np.unique(written)) == len(written), "two tokens go to one place in the cache")


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise PagodaError(f"the batch breaks the platform contract: {otherwise}")
