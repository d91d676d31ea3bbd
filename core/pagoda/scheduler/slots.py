"""Running requests as columns: one row a slot, so that a step is planned by a few NumPy calls."""

from __future__ import annotations

import numpy as np

from pagoda.platform.batch import PENDING


class SlotTable:
    """Per-slot state of running requests.  A slot's row is written at admission and read by
    planning, batch building and collecting; nothing is kept in two places while a request runs."""

    def __init__(self, num_slots: int, max_blocks: int):
        def column(dtype: type = np.int32) -> np.ndarray:
            return np.zeros(num_slots, dtype)

        self.length = column()  # tokens known or PENDING
        self.computed = column()  # tokens in the cache, or on their way there
        self.pending = column()  # tokens sampled and not yet seen by the host
        self.limit = column()  # length at which generation must stop
        self.min_length = column()  # length before which no stop token counts
        self.prompt_length = column()
        self.last_token = column()  # the last token, or PENDING
        self.num_blocks = column()
        self.needs_history = column(np.bool_)  # never planned ahead of a PENDING token
        self.admitted = column(np.bool_)  # no step has seen this life of the slot yet
        self.stop_ids = np.full((num_slots, 4), -1, np.int32)  # [slots, E] padded with -1
        self.blocks = np.zeros((num_slots, max_blocks), np.int32)
        self._free = list(range(num_slots - 1, -1, -1))

    @property
    def num_free(self) -> int:
        return len(self._free)

    def take(self) -> int:
        return self._free.pop()

    def release(self, slot: int) -> None:
        self._free.append(slot)

    def set_stop_ids(self, slot: int, token_ids: frozenset[int]) -> None:
        width = self.stop_ids.shape[1]
        if len(token_ids) > width:
            wider = np.full((len(self.stop_ids), len(token_ids)), -1, np.int32)
            wider[:, :width] = self.stop_ids
            self.stop_ids = wider
        self.stop_ids[slot] = -1
        self.stop_ids[slot, : len(token_ids)] = list(token_ids)

    def add_blocks(self, slot: int, blocks: list[int]) -> None:
        start = self.num_blocks[slot]
        self.blocks[slot, start : start + len(blocks)] = blocks
        self.num_blocks[slot] = start + len(blocks)

    def advance(self, slots: np.ndarray, counts: np.ndarray, sampled: np.ndarray) -> None:
        """A step was submitted: ``counts`` tokens of each slot run, ``sampled`` slots await one."""
        self.computed[slots] += counts
        self.admitted[slots] = False
        self.length[sampled] += 1
        self.pending[sampled] += 1
        self.last_token[sampled] = PENDING

    def land(self, slots: np.ndarray, token_ids: np.ndarray) -> None:
        """Tokens of a step arrived."""
        self.pending[slots] -= 1
        settled = self.pending[slots] == 0
        self.last_token[slots[settled]] = token_ids[settled]
