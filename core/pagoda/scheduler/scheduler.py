"""Who runs in the next step: continuous batching, chunked prefill, preemption by recompute.

Decodes go first, then prompts under way, then waiting requests, all under one token budget.  The
scheduler knows hardware only as StepLimits and a number of blocks.
"""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field

import numpy as np

from pagoda.platform.types import StepLimits
from pagoda.scheduler.blocks import BlockPool
from pagoda.scheduler.prefix import PrefixChains
from pagoda.scheduler.request import Request, Status
from pagoda.scheduler.slots import SlotTable


@dataclass
class Plan:
    """What one step runs, in batch order."""

    requests: list[Request]  # decodes first, then prefills
    num_decodes: int
    slots: np.ndarray  # [R]
    counts: np.ndarray  # [R] tokens of each request run now
    copies: list[tuple[int, int]]  # (source, destination) blocks, before the step's writes
    sampled: list[Request]  # those whose last known token runs, in batch order
    sample_rows: np.ndarray  # [S]
    num_departed: int = 0  # the scheduler's count when the step was submitted
    scored: list[tuple[Request, int]] = field(default_factory=list)  # prompt tokens scored for each


class Scheduler:
    """Owns waiting and running requests, their slots and their blocks."""

    def __init__(
        self,
        limits: StepLimits,
        num_blocks: int,
        block_size: int,
        max_model_len: int,
        prefix_caching: bool = True,
        copy_blocks: bool = True,
    ):
        self.limits = limits
        self.block_size = block_size
        self.copy_blocks = copy_blocks
        self.pool = BlockPool(num_blocks, prefix_caching and limits.chunked_prefill)
        self.prefixes = PrefixChains(self.pool, block_size)
        self.table = SlotTable(limits.max_requests, -(-max_model_len // block_size))
        self.waiting: list[Request] = []  # by rank
        self.running: list[Request] = []  # by admission
        self.num_preemptions = 0
        self.num_departed = 0  # times a running request left its slot
        self._prefilling: list[Request] = []
        self._decoding: list[Request] = []
        self._decode_slots = np.zeros(0, np.int32)
        self._decoding_changed = False
        self._last_was_prefill = False

    # -- requests in and out --------------------------------------------------------------------

    def add(self, request: Request) -> None:
        """Queue a request.  The caller checked that it fits max_model_len."""
        insort(self.waiting, request, key=lambda r: r.rank)

    def finish(self, request: Request) -> None:
        """Take a request out, wherever it stands, and free what it holds."""
        if request.status is Status.WAITING:
            self.waiting.remove(request)
        elif request.status is Status.RUNNING:
            self.prefixes.publish(request, int(self.table.computed[request.slot]))
            self._leave(request)
        request.status = Status.FINISHED
        request.fork_of = None

    # -- planning -------------------------------------------------------------------------------

    def schedule(self, in_flight: int = 0) -> Plan | None:
        """Plan the next step, or None when nothing can run before a step in flight lands."""
        copies: list[tuple[int, int]] = []
        picked, slots, budget = self._pick_decodes(in_flight)
        if not self.limits.mixed:
            if picked and self._last_was_prefill:
                return self._plan(picked, slots, [], [], copies)
            prefills, counts = self._pick_prefills(self.limits.max_tokens, 0, copies)
            self._last_was_prefill = bool(prefills)
            if prefills:
                return self._plan([], slots[:0], prefills, counts, copies)
            return self._plan(picked, slots, [], [], copies) if picked else None
        prefills, counts = self._pick_prefills(budget, len(picked), copies)
        if not picked and not prefills:
            return None
        return self._plan(picked, slots, prefills, counts, copies)

    def submitted(self, plan: Plan) -> None:
        """The plan's step was handed to the runner: later steps may read what it writes."""
        plan.num_departed = self.num_departed
        sampled = plan.slots[plan.sample_rows]
        self.table.advance(plan.slots, plan.counts, sampled)
        for request in plan.requests[plan.num_decodes :]:
            self.prefixes.publish(request, int(self.table.computed[request.slot]))

    def _pick_decodes(self, in_flight: int) -> tuple[list[Request], np.ndarray, int]:
        """Requests with one token to run, their slots, and the token budget left."""
        if self._decoding_changed:
            self._decode_slots = np.array([r.slot for r in self._decoding], np.int32)
            self._decoding_changed = False
        table, slots, picked = self.table, self._decode_slots, self._decoding.copy()
        if len(slots) == 0:
            return [], slots, self.limits.max_tokens
        if in_flight:
            ready = table.length[slots] < table.limit[slots]
            ready &= ~(table.needs_history[slots] & (table.pending[slots] > 0))
            picked, slots = _keep(picked, slots, ready)
        if len(picked) > self.limits.max_tokens:
            picked, slots = picked[: self.limits.max_tokens], slots[: self.limits.max_tokens]
        full = table.computed[slots] == table.num_blocks[slots] * self.block_size
        if full.any():
            picked, slots = self._grow(picked, slots, np.flatnonzero(full), in_flight)
        return picked, slots, self.limits.max_tokens - len(picked)

    def _grow(
        self, picked: list[Request], slots: np.ndarray, rows: np.ndarray, in_flight: int
    ) -> tuple[list[Request], np.ndarray]:
        """One more block for each of ``rows``, preempting the last in rank when none is left."""
        postponed = np.zeros(len(picked), np.bool_)
        for row in rows.tolist():
            request = picked[row]
            if request.status is not Status.RUNNING:  # preempted for an earlier row
                continue
            self.prefixes.publish(request, int(self.table.computed[request.slot]))
            while not self.pool.num_free and request.status is Status.RUNNING:
                if in_flight:  # let the device catch up before taking blocks back
                    break
                self._preempt(max(self.running, key=lambda r: r.rank))
            if request.status is Status.RUNNING and self.pool.num_free:
                self._give(request, self.pool.take(1))
            else:
                postponed[row] = True
        alive = np.array([r.status is Status.RUNNING for r in picked], np.bool_)
        return _keep(picked, slots, alive & ~postponed)

    def _pick_prefills(
        self, budget: int, num_picked: int, copies: list[tuple[int, int]]
    ) -> tuple[list[Request], list[int]]:
        """Prompts under way, then waiting requests, as far as tokens, slots and blocks go."""
        picked: list[Request] = []
        counts: list[int] = []
        room = self.limits.max_requests - num_picked
        for request in self._prefilling:
            count = min(budget, self._left(request))
            if not count or len(picked) == room:
                break
            picked.append(request)
            counts.append(count)
            budget -= count
        coming = self.prefixes.coming(zip(picked, counts, strict=True), self.table)
        for request in list(self.waiting):
            if not (budget and len(picked) < room and self.table.num_free):
                break
            if self._must_wait(request, coming):
                continue
            if not self.limits.chunked_prefill and len(request.tokens) > budget:
                break
            if not self._admit(request, copies):
                break
            count = min(budget, self._left(request))
            picked.append(request)
            counts.append(count)
            budget -= count
            coming |= self.prefixes.coming([(request, count)], self.table)
        return picked, counts

    def _must_wait(self, request: Request, coming: set[bytes]) -> bool:
        """This very step computes its prefix for another request: reuse it in the next."""
        parent = request.fork_of
        if parent is not None and parent.status is Status.RUNNING:
            return int(self.table.computed[parent.slot]) < request.prompt_len - 1
        return self.prefixes.next_is_coming(request, coming)

    def _admit(self, request: Request, copies: list[tuple[int, int]]) -> bool:
        """Give a waiting request a slot and blocks for all its tokens; False if none are free."""
        shared, cached, source = self._find_prefix(request)
        need = -(-len(request.tokens) // self.block_size) - len(shared)
        # A block left over for each running request, lest they preempt this one right away.
        spare = len(self.running)
        if need + spare > self.pool.num_free - self.pool.num_evictable(shared):
            return False
        self.pool.share(shared)
        fresh = self.pool.take(need)
        if source is not None:
            copies.append((source, fresh[0]))
        self.waiting.remove(request)
        self.running.append(request)
        self._prefilling.append(request)
        request.status = Status.RUNNING
        request.fork_of = None
        request.published = len(shared)
        self.prefixes.count(request, cached)
        if request.num_preemptions == 0:
            request.num_cached_tokens = cached
        request.slot = slot = self.table.take()
        self._fill_slot(request, slot, cached)
        self._give(request, shared + fresh)
        return True

    def _find_prefix(self, request: Request) -> tuple[list[int], int, int | None]:
        """Blocks to share, tokens they (and a copied block) hold, and the block to copy, if any."""
        parent = request.fork_of
        forked = (
            parent is not None and parent.status is Status.RUNNING and not request.num_preemptions
        )
        if forked and parent is not None and not request.wants_scores:
            cached = request.prompt_len - 1
            whole = cached // self.block_size
            if cached % self.block_size == 0 or not self.copy_blocks:
                return parent.blocks[:whole], whole * self.block_size, None
            return parent.blocks[:whole], cached, parent.blocks[whole]
        shared = self.prefixes.find(request)
        return shared, len(shared) * self.block_size, None

    def _fill_slot(self, request: Request, slot: int, cached: int) -> None:
        table, params = self.table, request.params
        table.length[slot] = len(request.tokens)
        table.computed[slot] = cached
        table.pending[slot] = 0
        table.prompt_length[slot] = request.prompt_len
        table.limit[slot] = request.limit
        table.min_length[slot] = request.prompt_len + params.min_tokens
        table.last_token[slot] = request.tokens[-1]
        table.num_blocks[slot] = 0
        table.needs_history[slot] = request.sampling.needs_history
        table.admitted[slot] = True
        table.set_stop_ids(slot, request.stop_token_ids)

    def _plan(
        self,
        decodes: list[Request],
        decode_slots: np.ndarray,
        prefills: list[Request],
        prefill_counts: list[int],
        copies: list[tuple[int, int]],
    ) -> Plan:
        if not prefills:
            rows = np.arange(len(decodes), dtype=np.int32)
            counts = np.ones(len(decodes), np.int32)
            return Plan(decodes, len(decodes), decode_slots, counts, copies, decodes, rows)
        requests = decodes + prefills
        slots = np.concatenate([decode_slots, [r.slot for r in prefills]]).astype(np.int32)
        counts = np.concatenate([np.ones(len(decodes)), prefill_counts]).astype(np.int32)
        done = self.table.computed[slots] + counts == self.table.length[slots]
        rows = np.flatnonzero(done).astype(np.int32)
        sampled = [requests[row] for row in rows.tolist()]
        for request in sampled[len(decodes) :]:  # their prompts are complete: they decode next
            self._prefilling.remove(request)
            self._decoding.append(request)
            self._decoding_changed = True
        return Plan(requests, len(decodes), slots, counts, copies, sampled, rows)

    # -- blocks and slots -----------------------------------------------------------------------

    def _left(self, request: Request) -> int:
        """Tokens of a running request not yet in the cache nor on their way."""
        return int(self.table.length[request.slot] - self.table.computed[request.slot])

    def _give(self, request: Request, blocks: list[int]) -> None:
        request.blocks += blocks
        self.table.add_blocks(request.slot, blocks)

    def _preempt(self, request: Request) -> None:
        """Back to the queue; its tokens are run again when there is room."""
        self.prefixes.publish(request, int(self.table.computed[request.slot]))
        self._leave(request)
        request.status = Status.WAITING
        request.num_preemptions += 1
        self.num_preemptions += 1
        self.add(request)

    def _leave(self, request: Request) -> None:
        """Give back slot and blocks."""
        self.num_departed += 1
        self.running.remove(request)
        if request in self._prefilling:
            self._prefilling.remove(request)
        else:
            self._decoding.remove(request)
            self._decoding_changed = True
        self.pool.release(request.blocks)
        self.table.release(request.slot)
        request.blocks = []
        request.slot = -1


def _keep(
    picked: list[Request], slots: np.ndarray, mask: np.ndarray
) -> tuple[list[Request], np.ndarray]:
    if mask.all():
        return picked, slots
    return [r for r, ok in zip(picked, mask.tolist(), strict=True) if ok], slots[mask]
