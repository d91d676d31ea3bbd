"""One step's work as it crosses to a platform: ragged NumPy arrays, unpadded, host memory.

Rules (each has a conformance test): the core never pads and never writes to a submitted batch;
tokens do not depend on chunking, neighbours, physical block order, batch size or preemption;
steps execute in submission order; a step may sample nothing; a step beyond the limits raises.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Int32 = npt.NDArray[np.int32]
Float32 = npt.NDArray[np.float32]

PENDING = -1
"""In ``token_ids``: the token this slot sampled in the step before, still on the device."""


@dataclass(frozen=True)
class BlockTable:
    """The cache blocks of each request in sequence order, for one KV group."""

    ids: Int32  # [R, W] block ids; past ``counts``, junk
    counts: Int32  # [R] blocks in use

    def padded(self, rows: int, width: int, fill: int = 0) -> Int32:
        """[rows, width] with ``fill`` wherever there is no block."""
        table = np.full((rows, width), fill, np.int32)
        num_rows, used = self.ids.shape[0], min(width, self.ids.shape[1])
        live = np.arange(used) < self.counts[:, None]
        table[:num_rows, :used] = np.where(live, self.ids[:, :used], fill)
        return table

    def ragged(self) -> tuple[Int32, Int32]:
        """Block ids end to end [sum(counts)], and where each request's begin [R+1]."""
        live = np.arange(self.ids.shape[1]) < self.counts[:, None]
        start = np.zeros(len(self.counts) + 1, np.int32)
        np.cumsum(self.counts, out=start[1:])
        return self.ids[live], start


@dataclass(frozen=True)
class Penalties:
    """Which tokens each penalised row has seen, and how hard that counts (vLLM's semantics).

    Entry i says: row ``rows[i]`` has seen ``token_ids[i]``, ``counts[i]`` times in its output
    (0: in its prompt only)."""

    repetition: Float32  # [S] 1 = off
    presence: Float32  # [S] 0 = off
    frequency: Float32  # [S] 0 = off
    rows: Int32  # [N] ascending; (row, token) pairs are unique
    token_ids: Int32  # [N]
    counts: Int32  # [N]


@dataclass(frozen=True)
class TokenBias:
    """Values added to logits before anything else; (row, token) pairs are unique."""

    rows: Int32  # [N] ascending
    token_ids: Int32  # [N]
    values: Float32  # [N] -inf forbids


@dataclass(frozen=True)
class SamplingBatch:
    """How each sampled row picks its token; S-aligned.  ``pagoda.sampling.reference`` is the
    definition.  Random numbers come with the batch, so no platform keeps random state."""

    temperature: Float32  # [S] 0 = greedy
    top_k: Int32  # [S] 0 = off
    top_p: Float32  # [S] 1 = off
    min_p: Float32  # [S] 0 = off
    uniform: Float32  # [S] in [0, 1): a function of the request's seed and the token's position
    num_logprobs: Int32  # [S] alternatives wanted; -1 = no logprobs at all
    penalties: Penalties | None = None
    bias: TokenBias | None = None
    mask: npt.NDArray[np.uint32] | None = (
        None  # [S, ceil(V/32)] bit t%32 of word t//32: t is allowed
    )

    @cached_property
    def plain_greedy(self) -> bool:
        """Every row is a bare argmax."""
        extras = self.penalties is not None or self.bias is not None or self.mask is not None
        return not extras and not self.temperature.any() and not self.wants_logprobs

    @cached_property
    def wants_logprobs(self) -> bool:
        return bool((self.num_logprobs >= 0).any())


@dataclass(frozen=True)
class ScoreBatch:
    """Prompt tokens whose log-probability is wanted (prompt_logprobs)."""

    token_rows: Int32  # [P] indices into token_ids, ascending: the position whose logits predict
    targets: Int32  # [P] the prompt token that came next
    num_logprobs: int  # alternatives wanted


@dataclass(frozen=True)
class ScheduledBatch:
    """R requests, T tokens.  int32, C-contiguous; the runner may keep the arrays."""

    slots: Int32  # [R] stable small id while a request runs: device-side state is keyed by it
    admitted: npt.NDArray[np.bool_]  # [R] the slot starts a new life this step; forget what it held
    query_start: Int32  # [R+1] where each request's tokens begin
    token_ids: Int32  # [T] token or PENDING (then the query's only token)
    context_lens: Int32  # [R] tokens already cached
    block_tables: tuple[BlockTable, ...]  # one per KV group
    sample_rows: Int32  # [S] requests whose last token is to be continued, ascending; may be empty
    sampling: SamplingBatch
    score: ScoreBatch | None = None
    block_copies: Int32 | None = None  # [C, 2] (source, destination), done before the step's writes
    want_logits: bool = False  # the raw logits of sample_rows too; the conformance kit uses it

    @cached_property
    def query_lens(self) -> Int32:
        """[R] tokens run now."""
        return np.diff(self.query_start)

    @cached_property
    def seq_lens(self) -> Int32:
        """[R] tokens cached once the step is done."""
        return self.context_lens + self.query_lens

    @cached_property
    def rows(self) -> Int32:
        """[T] the request of each token."""
        return np.repeat(np.arange(len(self.slots), dtype=np.int32), self.query_lens)

    @cached_property
    def positions(self) -> Int32:
        """[T] the position of each token in its sequence."""
        start = self.context_lens - self.query_start[:-1]
        return np.arange(len(self.token_ids), dtype=np.int32) + start[self.rows]

    @cached_property
    def logit_index(self) -> Int32:
        """[S] index into token_ids of each sampled row's last token."""
        return (self.query_start[1:] - 1)[self.sample_rows]

    def cache_slots(self, block_size: int, group: int = 0) -> npt.NDArray[np.int64]:
        """[T] flat cache position (block * block_size + offset) of each token."""
        block = self.block_tables[group].ids[self.rows, self.positions // block_size]
        return block.astype(np.int64) * block_size + self.positions % block_size
