"""A ModelRunner whose cache holds token ids and whose next token is a hash of all it can read.

Any mistake of the core (a stale block, a wrong table, a lost copy, a token run twice or never)
changes the tokens it answers with; ``expected`` says what they must be.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from pagoda.platform import (
    Done,
    KVCacheSpec,
    KVGroup,
    Logprobs,
    ScheduledBatch,
    StepHandle,
    StepLimits,
    StepResult,
)

VOCAB = 50
UNWRITTEN = -7


def next_token(tokens: Sequence[int]) -> int:
    return zlib.crc32(np.asarray(tokens, np.int32).tobytes()) % VOCAB


def expected(prompt: Sequence[int], count: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(next_token(tokens))
    return tokens[len(prompt) :]


class TokenRunner:
    """Checks every batch against the contract while it runs it."""

    def __init__(self, limits: StepLimits, block_size: int):
        self.limits = limits
        self.block_size = block_size
        self.last = np.full(limits.max_requests, UNWRITTEN, np.int64)
        self.num_tokens_run = 0
        self.num_steps = 0

    def load(self) -> None: ...

    def kv_cache_spec(self) -> KVCacheSpec:
        return KVCacheSpec((KVGroup(self.block_size, 1),))

    def free_kv_bytes(self) -> int:
        return 1 << 20

    def init_kv_cache(self, num_blocks: int) -> None:
        self.cache = np.full((num_blocks, self.block_size), UNWRITTEN, np.int64)

    def warm_up(self) -> None: ...

    def close(self) -> None: ...

    def submit(self, batch: ScheduledBatch) -> StepHandle:
        self._check(batch)
        self.num_steps += 1
        self.num_tokens_run += len(batch.token_ids)
        if batch.block_copies is not None:
            for source, destination in batch.block_copies.tolist():
                self.cache[destination] = self.cache[source]
        slots = batch.slots[batch.rows]
        tokens = np.where(batch.token_ids < 0, self.last[slots], batch.token_ids)
        assert (tokens >= 0).all(), "PENDING in a slot that has sampled nothing"
        flat = self.cache.reshape(-1)
        flat[batch.cache_slots(self.block_size)] = tokens
        contents = [self._read(batch, row) for row in range(len(batch.slots))]
        sampled = np.array([next_token(contents[r]) for r in batch.sample_rows], np.int32)
        self.last[batch.slots[batch.sample_rows]] = sampled
        score = None
        if batch.score is not None:
            score = Logprobs(
                batch.score.targets[:, None].astype(np.int32),
                -batch.positions[batch.score.token_rows][:, None].astype(np.float32),
                np.ones(len(batch.score.targets), np.int32),
            )
        return Done(StepResult(sampled, score=score))

    def _read(self, batch: ScheduledBatch, row: int) -> np.ndarray:
        table = batch.block_tables[0]
        blocks = table.ids[row, : table.counts[row]]
        content = self.cache[blocks].reshape(-1)[: batch.seq_lens[row]]
        assert (content != UNWRITTEN).all(), "reads a cache position that was never written"
        return content

    def _check(self, batch: ScheduledBatch) -> None:
        assert 0 < len(batch.slots) <= self.limits.max_requests
        assert 0 < len(batch.token_ids) <= self.limits.max_tokens
        assert len(set(batch.slots.tolist())) == len(batch.slots)
        assert (batch.query_lens > 0).all()
        if not self.limits.chunked_prefill:
            assert (batch.context_lens[batch.query_lens > 1] == 0).all()
        arrays = (batch.slots, batch.query_start, batch.token_ids, batch.context_lens)
        assert all(a.dtype == np.int32 and a.flags.c_contiguous for a in arrays)
        written = batch.cache_slots(self.block_size)
        assert len(set(written.tolist())) == len(written), "two tokens in one cache position"
