"""Decode steps recorded once for each of a few batch sizes and replayed: the host sends the rows'
numbers, starts the replay, and is done."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pagoda.platform import ScheduledBatch
from pagoda_torch.attention import AttentionBackend, DecodeRows, SharedRows
from pagoda_torch.family import GraphCapture, TorchDevice
from pagoda_torch.layers.context import ModelContext
from pagoda_torch.models.interface import CausalLM
from pagoda_torch.sharing import SharedPrefix, shared_prefix
from pagoda_torch.step import TorchStep

NUM_COLUMNS = 5  # sent tokens, slots, contexts, block starts, rows by falling length
NUM_SHARED_COLUMNS = 3  # members, own starts; how many rows share how many keys, then nothing


def batch_sizes(most: int) -> list[int]:
    """The sizes that are recorded: padding costs little, and so does the number of recordings."""
    steps = [1, 2, 4, *range(8, 64, 8), *range(64, 256, 16), *range(256, most, 32)]
    return [size for size in steps if size < most] + [most]


@dataclass(frozen=True)
class Recorded:
    """One recording; ``hidden`` is overwritten by every replay."""

    replay: Callable[[], None]
    hidden: Tensor  # [N, H]


class DecodeGraphs:
    """Owns the recordings and their inputs.  Each is made when first needed."""

    def __init__(
        self,
        capture: GraphCapture,
        model: CausalLM,
        context: ModelContext,
        device: TorchDevice,
        backends: Sequence[AttentionBackend],
        last_tokens: Tensor,
        block_size: int,
    ):
        self.capture, self.model, self.context, self.device = capture, model, context, device
        self.backends, self.last_tokens, self.block_size = backends, last_tokens, block_size
        self.spare_slot = len(last_tokens) - 1  # padding rows have it
        self.sizes = batch_sizes(self.spare_slot)
        most, width = self.sizes[-1], -(-context.max_model_len // block_size)
        where = context.device
        self.inputs = torch.zeros(
            most * (NUM_COLUMNS + NUM_SHARED_COLUMNS + width), dtype=torch.int32, device=where
        )  # the columns end to end, then block ids
        self.lens = torch.zeros(most, dtype=torch.int32, device=where)
        self.token_ids, self.positions, self.cache_slots, self.tokens = (
            torch.zeros(most, dtype=torch.int64, device=where) for _ in range(4)
        )
        self._recorded: dict[tuple[int, bool, bool], Recorded] = {}

    def takes(self, batch: ScheduledBatch) -> bool:
        """Whether the batch is one token for each row, all of them sampled, and nothing else."""
        plain = batch.score is None and batch.block_copies is None
        return plain and len(batch.sample_rows) == len(batch.slots) == len(batch.token_ids)

    def run(self, batch: ScheduledBatch, greedy: bool) -> Tensor:
        """Replay the batch's size.  Returns the tokens [R] int64 when ``greedy``, ``last_tokens``
        updated, else hidden states [R, H]; both are overwritten by the next run."""
        rows = len(batch.slots)
        size = self.sizes[bisect_left(self.sizes, rows)]
        table = batch.block_tables[0].ids
        shared = shared_prefix(table, batch.context_lens, self.block_size)
        kind = size, greedy, shared is not None
        recorded = self._recorded.get(kind)
        if recorded is None:
            recorded = self._recorded[kind] = self._record(batch, *kind)
        columns = self._padding(size, shared)
        columns[0, :rows], columns[1, :rows] = batch.token_ids, batch.slots
        columns[2, :rows] = batch.context_lens
        columns[3, :rows] = np.arange(rows, dtype=np.int32) * table.shape[1]
        columns[4, :rows] = np.argsort(-batch.context_lens)
        self._send(np.concatenate((columns.reshape(-1), table.reshape(-1))))
        recorded.replay()
        return (self.tokens if greedy else recorded.hidden)[:rows]

    def _padding(self, size: int, shared: SharedPrefix | None) -> np.ndarray:
        """Columns of rows that are none; what rows share is in its place."""
        more = 0 if shared is None else NUM_SHARED_COLUMNS
        columns = np.zeros((NUM_COLUMNS + more, size), np.int32)
        columns[1], columns[2], columns[4] = self.spare_slot, -1, np.arange(size)
        if shared is not None:
            members, own_start, extent = columns[NUM_COLUMNS:]
            members[: len(shared.rows)] = shared.rows
            own_start[shared.rows] = shared.num_keys
            extent[:2] = len(shared.rows), shared.num_keys
        return columns

    def _send(self, numbers: np.ndarray) -> None:
        self.inputs[: len(numbers)].copy_(self.device.upload(numbers))

    def _record(self, batch: ScheduledBatch, size: int, greedy: bool, sharing: bool) -> Recorded:
        """With padding alone in the inputs, since the work is run while it is recorded."""
        nothing = SharedPrefix(np.zeros(0, np.int64), 0) if sharing else None
        padding = self._padding(size, nothing)
        self._send(padding.reshape(-1))
        sent, slots, context, block_start, order, *more = torch.split(
            self.inputs[: padding.size], size
        )
        blocks = self.inputs[padding.size :]
        shared = None
        if sharing:
            members, own_start, extent = more
            shared = SharedRows(members, extent[:2], own_start)
        lens, tokens = self.lens[:size], self.tokens[:size]
        step = TorchStep(
            batch=batch,
            block_size=self.block_size,
            device=self.device,
            dtype=self.context.dtype,
            token_ids=self.token_ids[:size],
            positions=self.positions[:size],
            cache_slots=self.cache_slots[:size],
        )
        rows = DecodeRows(lens, step.cache_slots, block_start, blocks, order, shared)
        for backend in self.backends:
            step.plans[backend.name] = backend.plan_recorded(rows)
        model, ops = self.model, self.context.ops
        given = sent, slots, context, block_start, blocks
        found = step.token_ids, step.positions, lens, step.cache_slots

        def work() -> Tensor:
            ops.decode_inputs(*given, self.last_tokens, self.block_size, *found)
            hidden = model.forward(step.token_ids, step.positions, step)
            if greedy:
                ops.take_greedy(model.logits(hidden), slots, self.last_tokens, tokens)
            return hidden

        return Recorded(*self.capture.record(work))
