"""A Plan becomes the ScheduledBatch that crosses to the platform."""

from __future__ import annotations

import numpy as np

from pagoda.platform.batch import BlockTable, Int32, ScheduledBatch, ScoreBatch
from pagoda.sampling.batch import SamplingTable
from pagoda.scheduler.scheduler import Plan
from pagoda.scheduler.slots import SlotTable


def build_batch(plan: Plan, table: SlotTable, sampling: SamplingTable) -> ScheduledBatch:
    """Gather the plan's rows from the slot table; O(tokens + blocks in the batch)."""
    slots = plan.slots
    query_start = np.zeros(len(slots) + 1, np.int32)
    np.cumsum(plan.counts, out=query_start[1:])
    num_blocks = table.num_blocks[slots]
    sampled = slots[plan.sample_rows]
    return ScheduledBatch(
        slots=slots,
        admitted=table.admitted[slots],
        query_start=query_start,
        token_ids=_token_ids(plan, table),
        context_lens=table.computed[slots],
        block_tables=(BlockTable(table.blocks[slots, : num_blocks.max()], num_blocks),),
        sample_rows=plan.sample_rows,
        sampling=sampling.build(sampled, table.length[sampled] - table.prompt_length[sampled]),
        score=_score(plan, table, query_start, sampling.vocab_size),
        block_copies=np.array(plan.copies, np.int32) if plan.copies else None,
    )


def _token_ids(plan: Plan, table: SlotTable) -> Int32:
    decodes: Int32 = table.last_token[plan.slots[: plan.num_decodes]]
    if plan.num_decodes == len(plan.requests):
        return decodes
    parts = [decodes]
    for row in range(plan.num_decodes, len(plan.requests)):
        start = int(table.computed[plan.slots[row]])
        tokens = plan.requests[row].tokens[start : start + int(plan.counts[row])]
        parts.append(np.array(tokens, np.int32))
    return np.concatenate(parts)


def _score(plan: Plan, table: SlotTable, query_start: Int32, vocab_size: int) -> ScoreBatch | None:
    """Prompt positions whose next token is to be scored; notes on the plan whose they are."""
    rows: list[np.ndarray] = []
    targets: list[int] = []
    num_logprobs = 0
    for row in range(plan.num_decodes, len(plan.requests)):
        request = plan.requests[row]
        if not request.wants_scores:
            continue
        start = int(table.computed[request.slot])
        first = max(start, request.num_scored)
        last = min(start + int(plan.counts[row]), request.prompt_len - 1)
        if first < last:
            rows.append(np.arange(first, last, dtype=np.int32) - start + query_start[row])
            targets += request.tokens[first + 1 : last + 1]
            wanted = request.params.prompt_logprobs or 0
            num_logprobs = max(num_logprobs, vocab_size if wanted == -1 else wanted)
            plan.scored.append((request, last - first))
    if not rows:
        return None
    return ScoreBatch(np.concatenate(rows), np.array(targets, np.int32), num_logprobs)
