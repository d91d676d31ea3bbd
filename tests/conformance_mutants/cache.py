"""Mistakes with blocks and block tables."""

from __future__ import annotations

import dataclasses

import numpy as np

from conformance_mutants.attention import Attending
from conformance_mutants.catalog import mutant
from pagoda.engine.core import EngineCore
from pagoda.platform import BlockTable
from pagoda.reference.attention import PagedCache, attention
from pagoda.reference.runner import ReferenceRunner


@mutant(
    "test_steps.py::test_blocks_of_others_are_not_seen", "what they left beyond a request's last"
)
class TailRead(Attending):
    """The last block is read to its end when a request decodes."""

    class cache(PagedCache):
        def __init__(self, shape, num_blocks, block_size):
            super().__init__(shape, num_blocks, block_size)
            self.keys[:] = self.values[:] = 0

        def attend(self, layer, query, batch):
            out = super().attend(layer, query, batch)
            for row in np.flatnonzero(batch.query_lens == 1).tolist():
                at = batch.query_start[row]
                used = -(-int(batch.seq_lens[row]) // self.block_size)
                blocks = batch.block_tables[0].ids[row, :used]
                key, value = (
                    x[layer, blocks].reshape(-1, *x.shape[3:]) for x in (self.keys, self.values)
                )
                end = np.array([len(key) - 1], np.int32)
                out[at : at + 1] = attention(query[at : at + 1], key, value, end, None)
            return out


@mutant("test_steps.py::test_decoding", "token 15 of .*16 tokens a block.*read that nobody wrote")
class WrongSlot(Attending):
    """The last place of each block is written one too early."""

    class cache(PagedCache):
        def write(self, layer, slots, key, value):
            late = slots % self.block_size == self.block_size - 1
            super().write(layer, slots - late, key, value)


@mutant("test_steps.py::test_a_slot_begins_a_new_life", "admitted was set when each began")
class SlotRemembers(ReferenceRunner):
    """Block tables are kept by slot and only what is new is read; ``admitted`` is ignored."""

    def submit(self, batch):
        kept = self.__dict__.setdefault("tables", {})
        table = batch.block_tables[0]
        ids = table.ids.copy()
        for row, slot in enumerate(batch.slots.tolist()):
            known = kept.get(slot, [])[: table.counts[row]]
            ids[row, : len(known)] = known
            kept[slot] = ids[row, : table.counts[row]].tolist()
        tables = (BlockTable(ids, table.counts),)
        return super().submit(dataclasses.replace(batch, block_tables=tables))


@mutant("test_steps.py::test_ragged_prompts", "index 1073741824 is out of bounds")
class JunkRead(Attending):
    """Past a row's blocks the table is read too."""

    class cache(PagedCache):
        def attend(self, layer, query, batch):
            _ = self.keys[layer, batch.block_tables[0].ids]
            return super().attend(layer, query, batch)


@mutant("test_steps.py::test_every_block_in_use", "a block not in a request's table was written")
class TableIgnored(ReferenceRunner):
    """A sequence's blocks are taken to lie one after another."""

    def submit(self, batch):
        ids = batch.block_tables[0].ids
        ids = (ids[:, :1] + np.arange(ids.shape[1], dtype=np.int32)) % self._cache.keys.shape[1]
        tables = (BlockTable(ids.astype(np.int32), batch.block_tables[0].counts),)
        return super().submit(dataclasses.replace(batch, block_tables=tables))


@mutant(
    "test_steps.py::test_blocks_are_copied_before_the_step_writes", "block_copies names a block"
)
class CopiesIgnored(ReferenceRunner):
    def submit(self, batch):
        return super().submit(dataclasses.replace(batch, block_copies=None))


@mutant(
    "test_steps.py::test_blocks_are_copied_before_the_step_writes", "before anything of the step"
)
class CopiesTooLate(ReferenceRunner):
    def submit(self, batch):
        handle = super().submit(dataclasses.replace(batch, block_copies=None))
        if batch.block_copies is not None:
            self._cache.copy_blocks(batch.block_copies)
        return handle


KEPT: list[object] = []


@mutant("test_lifecycle.py::test_memory_comes_back", r"close\(\) does not give memory back")
class MemoryKept(ReferenceRunner):
    def close(self):
        KEPT.append(self._cache)
        super().close()


@mutant("test_lifecycle.py::test_the_cache_is_cut_as_asked", "block_size=32 gave 16")
class BlockSizeIgnored(ReferenceRunner):
    def __init__(self, config, model):
        super().__init__(dataclasses.replace(config, block_size=16), model)


def _leak(monkeypatch):
    def abort(self, request_ids):
        for request_id in request_ids:
            request = self.requests.pop(request_id, None)
            if request is not None:
                request.blocks = []
                self.scheduler.finish(request)

    monkeypatch.setattr(EngineCore, "abort", abort)


@mutant("test_generation.py::test_an_abort_frees_everything", "blocks leaked", breaks_core=_leak)
class BlocksLeaked(ReferenceRunner):
    """The engine forgets an aborted request's blocks."""
