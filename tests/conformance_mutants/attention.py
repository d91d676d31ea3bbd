"""Mistakes in attention, positions and precision."""

from __future__ import annotations

import numpy as np

from conformance_mutants.catalog import mutant
from pagoda.reference.attention import PagedCache
from pagoda.reference.llama import Llama
from pagoda.reference.runner import ReferenceRunner


class Cache(PagedCache):
    """Attention with room for one mistake."""

    scale = 1.0
    ahead = 0
    mixed_heads = False
    wider = 0
    forgets_context = False

    def attend(self, layer, query, batch):
        out = np.empty_like(query)
        heads, shared = query.shape[1], query.shape[1] // self.keys.shape[3]
        use = np.arange(heads) % self.keys.shape[3] if self.mixed_heads else None
        use = np.arange(heads) // shared if use is None else use
        for row, length in enumerate(batch.seq_lens.tolist()):
            begin, end = batch.query_start[row : row + 2]
            blocks = batch.block_tables[0].ids[row, : -(-length // self.block_size)]
            key, value = (
                x[layer, blocks].reshape(-1, *x.shape[3:])[:length][:, use]
                for x in (self.keys, self.values)
            )
            distance = batch.positions[begin:end, None] - np.arange(length)
            visible = distance >= -self.ahead
            if self.windows[layer] is not None:
                visible &= distance < self.windows[layer] + self.wider
            if self.forgets_context and end - begin > 1:
                visible &= np.arange(length) >= batch.context_lens[row]
            scores = np.einsum("qhd,khd->hqk", query[begin:end], key)
            scores = np.where(visible, scores * self.scale / query.shape[2] ** 0.5, -np.inf)
            weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
            weights /= weights.sum(axis=-1, keepdims=True)
            out[begin:end] = np.einsum("hqk,khd->qhd", weights, value)
        return out


class Attending(ReferenceRunner):
    """A runner with another cache."""

    cache: type[PagedCache] = Cache

    def init_kv_cache(self, num_blocks):
        self._cache = self.cache(self.shape, num_blocks, self.block_size)


@mutant("test_steps.py::test_a_prompt", "scores are not scaled by 1/sqrt")
class WrongScale(Attending):
    class cache(Cache):
        scale = 8.0


@mutant("test_steps.py::test_a_prompt", "mask is off by one: a token sees the one after it")
class MaskOffByOne(Attending):
    class cache(Cache):
        ahead = 1


@mutant("test_steps.py::test_a_prompt", "query heads use the wrong key heads")
class HeadsMixed(Attending):
    class cache(Cache):
        mixed_heads = True


@mutant("test_steps.py::test_a_prompt", "sliding window holds one token too many")
class WindowTooWide(Attending):
    class cache(Cache):
        wider = 1


@mutant("test_steps.py::test_a_prompt", "sliding window is ignored")
class WindowIgnored(Attending):
    class cache(Cache):
        wider = 1 << 20


@mutant("test_steps.py::test_chunks_of_a_prompt", "only this step's tokens are attended to")
class ContextForgotten(Attending):
    class cache(Cache):
        forgets_context = True


@mutant("test_steps.py::test_a_prompt", "cache are rounded to float16")
class HalfCache(Attending):
    """A cache in float16 while float32 is claimed."""

    class cache(PagedCache):
        def write(self, layer, slots, key, value):
            half = [x.astype(np.float16).astype(np.float32) for x in (key, value)]
            super().write(layer, slots, *half)


class Restarting(Llama):
    offset: np.ndarray

    def forward(self, token_ids, positions, attend):
        return super().forward(token_ids, positions - self.offset, attend)


@mutant("test_steps.py::test_chunks_of_a_prompt", "positions begin at 0 in each step")
class PositionsRestart(ReferenceRunner):
    def submit(self, batch):
        self._llama.__class__ = Restarting
        self._llama.offset = batch.context_lens[batch.rows]
        return super().submit(batch)


class Rounding(Llama):
    def _linear(self, x, name):
        y = super()._linear(x, name)
        return (y.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


@mutant("test_steps.py::test_a_prompt", "rounding to b?float16")
class LowPrecision(ReferenceRunner):
    """bfloat16 inside while float32 is claimed."""

    def load(self):
        super().load()
        self._llama.__class__ = Rounding
