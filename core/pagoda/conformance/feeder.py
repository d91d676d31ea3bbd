"""Steps built by hand: sequences in scattered blocks, run in any portions, judged at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pagoda.conformance.diagnose import explain
from pagoda.conformance.oracle import log_softmax
from pagoda.conformance.subject import Opened
from pagoda.platform.batch import (
    PENDING,
    BlockTable,
    Float32,
    Int32,
    SamplingBatch,
    ScheduledBatch,
)
from pagoda.platform.runner import StepHandle, StepResult


def greedy(num_rows: int, num_logprobs: int = -1) -> SamplingBatch:
    """Sampling of so many bare argmax rows."""
    return sampling(num_rows, num_logprobs=[num_logprobs] * num_rows)


def sampling(num_rows: int, **given: Any) -> SamplingBatch:
    """Greedy rows, except for the fields given (arrays or lists of length ``num_rows``)."""
    fields: dict[str, Any] = {
        "temperature": np.zeros(num_rows, np.float32),
        "top_k": np.zeros(num_rows, np.int32),
        "top_p": np.ones(num_rows, np.float32),
        "min_p": np.zeros(num_rows, np.float32),
        "uniform": np.zeros(num_rows, np.float32),
        "num_logprobs": np.full(num_rows, -1, np.int32),
    }
    for name, value in given.items():
        fields[name] = np.asarray(value, fields[name].dtype) if name in fields else value
    return SamplingBatch(**fields)


@dataclass
class Life:
    """One sequence from admission on."""

    slot: int
    blocks: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)  # in the cache
    starts: list[int] = field(default_factory=list)  # where each step's portion began
    seen: list[tuple[int, Float32]] = field(default_factory=list)  # position, logits after it


class Feeder:
    """Owns slots and blocks as the core would, scattered; keeps every row of logits for ``judge``.

    A slot runs from its first ``run`` to ``retire``; then its blocks are free for others, and
    the slot for another life."""

    def __init__(self, opened: Opened, rng: np.random.Generator):
        self.opened = opened
        self.runner = opened.runner
        self.rng = rng
        self.size = opened.block_size
        self.free: list[int] = rng.permutation(opened.num_blocks).tolist()
        self.lives: dict[int, Life] = {}
        self.finished: list[Life] = []

    def slots(self, count: int) -> list[int]:
        """So many distinct slots, or as many as there are; in no order."""
        found: list[int] = self.rng.permutation(self.opened.limits.max_requests)[:count].tolist()
        return found

    def prompts(self, lengths: Sequence[int]) -> list[list[int]]:
        """Random prompts that fit one step together: fewer or shorter ones where they must be."""
        limits, vocab = self.opened.limits, self.opened.model.vocab_size
        lengths = list(lengths)[: limits.max_requests]
        shrink = min(1.0, limits.max_tokens / sum(lengths))
        return [self.rng.integers(3, vocab, max(1, int(n * shrink))).tolist() for n in lengths]

    def batch(
        self, parts: Mapping[int, Sequence[int]], sample: Sequence[int] | None = None, **more: Any
    ) -> ScheduledBatch:
        """A step that runs these tokens (or one PENDING) in these slots, in this order, and
        samples rows ``sample`` (default: all)."""
        admitted = np.array([slot not in self.lives for slot in parts])
        lives = [self.lives.setdefault(slot, Life(slot)) for slot in parts]
        contexts = [len(life.tokens) for life in lives]
        for life, tokens in zip(lives, parts.values(), strict=True):
            life.starts.append(len(life.tokens))
            life.tokens += tokens
            while len(life.blocks) * self.size < len(life.tokens):
                life.blocks.append(self.free.pop())
        lens = [len(tokens) for tokens in parts.values()]
        rows = np.arange(len(parts)) if sample is None else np.array(sample)
        fields: dict[str, Any] = {"sampling": greedy(len(rows)), "want_logits": True, **more}
        return ScheduledBatch(
            slots=np.array(list(parts), np.int32),
            admitted=admitted,
            query_start=np.cumsum([0, *lens], dtype=np.int32),
            token_ids=np.array([t for tokens in parts.values() for t in tokens], np.int32),
            context_lens=np.array(contexts, np.int32),
            block_tables=(self._table(lives),),
            sample_rows=rows.astype(np.int32),
            **fields,
        )

    def run(
        self, parts: Mapping[int, Sequence[int]], sample: Sequence[int] | None = None, **more: Any
    ) -> StepResult:
        """Submit such a step, wait, and keep its logits."""
        batch = self.batch(parts, sample, **more)
        return self.keep(batch, self.runner.submit(batch))

    def keep(self, batch: ScheduledBatch, handle: StepHandle) -> StepResult:
        """Wait for a step of ``batch``, keep its logits, and check the result's shape."""
        result = handle.result()
        num = len(batch.sample_rows)
        assert result.token_ids.shape == (num,), (
            f"{num} rows were to be sampled; token_ids has shape {result.token_ids.shape}"
        )
        if batch.want_logits:
            shape = (num, self.opened.model.vocab_size)
            assert result.logits is not None, "want_logits was set and no logits came"
            assert result.logits.shape == shape, (
                f"logits have shape {result.logits.shape}; {shape} was asked for"
            )
            for row, logits in zip(batch.sample_rows.tolist(), result.logits, strict=True):
                life = self.lives[int(batch.slots[row])]
                life.seen.append((int(batch.seq_lens[row]) - 1, np.array(logits, np.float32)))
        return result

    def learn(self, slot: int, token: int) -> None:
        """Put the token that came in the place of the slot's oldest PENDING one."""
        tokens = self.lives[slot].tokens
        tokens[tokens.index(PENDING)] = token

    def retire(self, slot: int) -> None:
        """The sequence ends; its blocks go to the next who needs some, its last one first."""
        life = self.lives.pop(slot)
        self.free += life.blocks
        self.finished.append(life)

    def judge(self, about: str = "") -> None:
        """Compare all logits seen with the oracle's.  Fails with the likeliest cause."""
        lives = [*self.finished, *self.lives.values()]
        opened, oracle = self.opened, self.opened.oracle
        for life in lives:
            if not life.seen:
                continue
            expected = oracle.logits(life.tokens)
            for position, logits in life.seen:
                where = f"slot {life.slot}, after token {position} of {len(life.tokens)}"
                if not np.isfinite(logits).all():
                    raise AssertionError(
                        f"{where} ({self.size} tokens a block): NaN or infinite logits: something"
                        f" was read that nobody wrote, or there was an overflow. {about}"
                    )
                error = difference(logits, expected[position])
                if error > opened.tolerance:
                    why = explain(oracle, lives, life, opened)
                    raise AssertionError(
                        f"{where} (portions began at {life.starts}, blocks {life.blocks} of"
                        f" {self.size} tokens): log-probabilities are off by {error:.2g};"
                        f" {opened.variant.name} is allowed {opened.tolerance:.2g}.\n{why}\n{about}"
                    )
                opened.subject.note_error(opened.variant, error)

    def _table(self, lives: Sequence[Life]) -> BlockTable:
        """Past the blocks in use: other sequences' blocks and numbers that are none."""
        counts = [len(life.blocks) for life in lives]
        shape = len(lives), max(counts) + 2
        ids = self.rng.integers(-1, self.opened.num_blocks, shape, np.int32)
        ids[:, -1] = 1 << 30
        for row, life in enumerate(lives):
            ids[row, : counts[row]] = life.blocks
        return BlockTable(ids, np.array(counts, np.int32))


def difference(got: Float32, expected: Float32) -> float:
    """Largest difference of the log-probabilities of all tokens."""
    return float(np.abs(log_softmax(got) - log_softmax(expected)).max())


def as_int32(values: Sequence[int]) -> Int32:
    return np.array(values, np.int32)
