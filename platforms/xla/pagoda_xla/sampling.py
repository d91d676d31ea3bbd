"""Which sampler graphs a step needs, in what order, and their inputs filled up to a bucket's rows.

All graphs of a number of rows are compiled at warm-up; a step runs two (its tokens and a bare
argmax) or some more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from pagoda.platform import SamplingBatch
from pagoda.platform.batch import Int32
from pagoda_torch.models.interface import CausalLM
from pagoda_xla import sampler
from pagoda_xla.family import Runtime

MOST_ALTERNATIVES = 20
"""Log-probabilities of more alternatives than this are sorted out on the host."""

NUM_ENTRIES = 2048
"""Entries of bias or penalties in one run of their graph."""

Graph = Callable[..., Any]


@dataclass(frozen=True)
class DeviceLogprobs:
    """``pagoda.platform.Logprobs`` before its download; rows and columns of padding included."""

    token_ids: Tensor
    logprobs: Tensor
    ranks: Tensor


class SamplerGraphs:
    """The graphs of one model, by name and number of rows; owns what every slot sampled last."""

    def __init__(self, runtime: Runtime, model: CausalLM, last_tokens: Tensor, vocab_size: int):
        self.runtime, self.model = runtime, model
        self.last_tokens = last_tokens  # [slots + 1] int32, the last for rows that are padding
        self.spare_slot = len(last_tokens) - 1
        self.vocab_size = vocab_size
        self._bits = runtime.upload(np.left_shift(np.int32(1), np.arange(32, dtype=np.int32)))
        self._graphs: dict[tuple[str, int], Graph] = {}

    def _run(self, name: str, rows: int, *arguments: Any) -> Any:
        graph = self._graphs.get((name, rows))
        if graph is None:
            function = getattr(self, f"_{name}")
            graph = self.runtime.compile(f"{name} of {rows} rows", function, 1)
            self._graphs[name, rows] = graph
        return graph(*arguments)

    def likeliest(self, hidden: Tensor, index: Int32, slots: Int32, rows: int) -> Tensor:
        """Tokens [rows] int32 by bare argmax, in one graph with the logits."""
        found: Tensor = self._run("likeliest", rows, hidden, self.picks(index, slots, rows))
        return found

    def picks(self, index: Int32, slots: Int32 | None, rows: int) -> Tensor:
        """[2, rows] int32 on the device: tokens, then slots."""
        filled = np.zeros((2, rows), np.int32)
        filled[1] = self.spare_slot
        filled[0, : len(index)] = index
        if slots is not None:
            filled[1, : len(slots)] = slots
        return self.runtime.upload(filled)

    def logits(self, hidden: Tensor, picks: Tensor, rows: int) -> Tensor:
        """Raw logits [rows, V] float32 of hidden states [T, H]."""
        found: Tensor = self._run("raw", rows, hidden, picks)
        return found

    def pick(self, logits: Tensor, picks: Tensor, batch: SamplingBatch, rows: int) -> Tensor:
        """Tokens [rows] int32 as the batch wants them."""
        upload, scores = self.runtime.upload, logits
        if batch.bias is not None:
            places = _places(batch.bias.rows, batch.bias.token_ids, self.vocab_size)
            for ints, floats in _pieces(places[None], batch.bias.values[None]):
                scores = self._run("biased", rows, scores, upload(ints), upload(floats))
        if batch.mask is not None:
            words = np.zeros((rows, batch.mask.shape[1]), np.int32)
            words[: len(batch.mask)] = batch.mask.view(np.int32)
            scores = self._run("masked", rows, scores, upload(words))
        if batch.penalties is not None:
            seen = batch.penalties
            strengths = np.stack([seen.repetition, seen.frequency, seen.presence])[:, seen.rows]
            places = _places(seen.rows, seen.token_ids, self.vocab_size)
            for ints, floats in _pieces(np.stack([places, seen.counts]), strengths):
                scores = self._run("penalised", rows, scores, upload(ints), upload(floats))
        limited = (batch.top_k > 0).any() or (batch.top_p < 1).any() or (batch.min_p > 0).any()
        columns: list[npt.NDArray[Any]] = [batch.temperature, batch.uniform]
        if limited:
            counted = (batch.top_k > 0) & (batch.top_k < self.vocab_size)
            columns += [np.where(counted, batch.top_k - 1, -1), batch.top_p, batch.min_p]
        numbers = np.zeros((len(columns), rows), np.float32)
        for filled, column in zip(numbers, columns, strict=True):
            filled[: len(column)] = column
        name = "drawn_limited" if limited else "drawn"
        found: Tensor = self._run(name, rows, scores, picks, upload(numbers))
        return found

    def logprobs(self, logits: Tensor, targets: Tensor, rows: int) -> DeviceLogprobs:
        """Of raw logits [rows, V], with the MOST_ALTERNATIVES likeliest."""
        return DeviceLogprobs(*self._run("logprobs_of", rows, logits, targets))

    def warm_up(self, hidden: Tensor, rows: int) -> Iterator[str]:
        """Run every graph of ``rows`` rows once, telling which comes next."""
        vocab, upload = self.vocab_size, self.runtime.upload
        picks = self.picks(np.zeros(0, np.int32), None, rows)
        yield "argmax"
        self._run("likeliest", rows, hidden, picks)
        yield "logits"
        logits = self.logits(hidden, picks, rows)
        yield "bias"
        ints, floats = np.zeros((2, NUM_ENTRIES), np.int32), np.ones((3, NUM_ENTRIES), np.float32)
        scores = self._run("biased", rows, logits, upload(ints[:1]), upload(floats[:1]))
        yield "mask"
        words = np.full((rows, -(-vocab // 32)), -1, np.int32)
        scores = self._run("masked", rows, scores, upload(words))
        yield "penalties"
        scores = self._run("penalised", rows, scores, upload(ints), upload(floats))
        yield "random"
        numbers = np.ones((5, rows), np.float32)
        tokens = self._run("drawn", rows, scores, picks, upload(numbers[:2]))
        yield "top-k and top-p"
        self._run("drawn_limited", rows, scores, picks, upload(numbers))
        yield "logprobs"
        self.logprobs(logits, tokens, rows)

    # -- what the graphs compute ----------------------------------------------------------------

    def _likeliest(self, hidden: Tensor, picks: Tensor) -> Tensor:
        return self._keep(sampler.greedy(self._raw(hidden, picks)), picks)

    def _raw(self, hidden: Tensor, picks: Tensor) -> Tensor:
        logits = self.model.logits(hidden.index_select(0, picks[0])).float()
        return self.runtime.whole(logits)

    def _biased(self, scores: Tensor, places: Tensor, values: Tensor) -> Tensor:
        return self.runtime.whole(sampler.biased(scores, places[0], values[0]))

    def _masked(self, scores: Tensor, words: Tensor) -> Tensor:
        return self.runtime.whole(sampler.masked(scores, words, self._bits))

    def _penalised(self, scores: Tensor, ints: Tensor, strengths: Tensor) -> Tensor:
        return self.runtime.whole(sampler.penalised(scores, ints[0], ints[1], strengths))

    def _drawn(self, scores: Tensor, picks: Tensor, numbers: Tensor) -> Tensor:
        return self._keep(sampler.drawn(scores, numbers[0], numbers[1], None), picks)

    def _drawn_limited(self, scores: Tensor, picks: Tensor, numbers: Tensor) -> Tensor:
        return self._keep(sampler.drawn(scores, numbers[0], numbers[1], numbers[2:]), picks)

    def _logprobs_of(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return sampler.logprobs_of(logits, targets, min(MOST_ALTERNATIVES, self.vocab_size))

    def _keep(self, tokens: Tensor, picks: Tensor) -> Tensor:
        tokens = self.runtime.whole(tokens)
        self.last_tokens.index_copy_(0, picks[1].long(), tokens)
        return tokens


def _places(rows: Int32, token_ids: Int32, vocab_size: int) -> Int32:
    places: Int32 = rows * np.int32(vocab_size) + token_ids
    return places


def _pieces(
    ints: npt.NDArray[np.int32], floats: npt.NDArray[np.float32]
) -> Iterator[tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]]:
    """Both [.., N] cut into NUM_ENTRIES, the last piece filled up by repeating its first entry."""
    for start in range(0, ints.shape[1], NUM_ENTRIES):
        index = np.arange(start, start + NUM_ENTRIES)
        index[index >= ints.shape[1]] = start
        yield ints[:, index], floats[:, index]
