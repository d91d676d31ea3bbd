"""What one running request's sampling depends on, kept up to date token by token.

The engine owns one SamplingState a request; ``pagoda.sampling.batch`` gathers them into steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pagoda.platform.batch import Float32, Int32
from pagoda.platform.errors import InvalidValue
from pagoda.sampling.params import SamplingParams

MaskRow = npt.NDArray[np.uint32]
"""[ceil(V/32)] bit t%32 of word t//32: token t is allowed; bits from V on are 0."""


class Matcher(Protocol):
    """One request's walk through a grammar (``pagoda.sampling.grammar``)."""

    error: str | None  # the walk failed: why

    @property
    def finished(self) -> bool:
        """Nothing but an end of sequence fits any more."""
        ...

    def advance(self, token_ids: Sequence[int]) -> None: ...

    def mask(self) -> MaskRow: ...


class SamplingState:
    """One request's parameters and history.  Costs O(1) a new token, whatever the context.

    ``eos_token_ids`` are held back until min_tokens; random sampling needs params.seed.  Raises
    InvalidValue where the parameters together leave no token to choose."""

    def __init__(
        self,
        params: SamplingParams,
        vocab_size: int,
        prompt_token_ids: Sequence[int],
        eos_token_ids: Iterable[int] = (),
        grammar: Matcher | None = None,
    ) -> None:
        if params.seed is None and not params.greedy:
            raise InvalidValue("seed", None, "must be set before a request runs")
        self.params = params
        self.vocab_size = vocab_size
        self.num_output_tokens = 0  # those the host knows
        self.grammar = grammar
        self.seen: SeenTokens | None = None
        if params.presence_penalty or params.frequency_penalty or params.repetition_penalty != 1:
            counts_prompt = params.repetition_penalty != 1
            self.seen = SeenTokens(prompt_token_ids if counts_prompt else ())
        self._bias = RequestBias(params, eos_token_ids)
        self._static_mask: MaskRow | None = None
        if params.allowed_token_ids is not None:
            self._static_mask = mask_of(params.allowed_token_ids, vocab_size)
        self.mask: MaskRow | None = None
        self.error: str | None = None  # this request cannot go on: why
        self._renew_mask()
        if self.error:
            field = "structured_outputs" if grammar is not None else "allowed_token_ids"
            raise InvalidValue(field, getattr(params, field), self.error)

    @property
    def num_logprobs(self) -> int:
        """As SamplingBatch wants it: -1 is none."""
        if self.params.logprobs is None:
            return -1
        return self.vocab_size if self.params.logprobs == -1 else self.params.logprobs

    @property
    def needs_history(self) -> bool:
        """The next sample depends on tokens that the host must know first."""
        return self.seen is not None or self.grammar is not None or self._bias.has_phrases

    @property
    def plain(self) -> bool:
        """Never any penalties, bias or mask."""
        return self.seen is None and not self._bias and self.mask is None

    @property
    def grammar_finished(self) -> bool:
        """The grammar takes nothing more: the request ends here, for the reason "stop"."""
        return self.grammar is not None and self.grammar.finished

    def append(self, token_ids: Sequence[int]) -> None:
        """The host learned of new output tokens; ``error`` and ``grammar_finished`` may have
        changed."""
        self.num_output_tokens += len(token_ids)
        if self.seen is not None:
            self.seen.add(token_ids)
        self._bias.advance(token_ids)
        if self.grammar is not None:
            self.grammar.advance(token_ids)
        if self.grammar is not None or (self.mask is not None and self._bias.has_phrases):
            self._renew_mask()

    def bias(self, num_output_tokens: int) -> tuple[Int32, Float32]:
        """Token ids, each once, and what to add to their logits after so many output tokens."""
        return self._bias.at(num_output_tokens)

    def _renew_mask(self) -> None:
        mask = self._static_mask
        if self.grammar is not None:
            self.error = self.grammar.error
            if self.error:
                return
            row = self.grammar.mask()
            mask = row if mask is None else row & mask
        self.mask = mask
        if not self.grammar_finished and mask is not None and not self._leaves_choice(mask):
            self.error = "no token is left by what structured_outputs, allowed_token_ids, "
            self.error += "bad_words and min_tokens allow"

    def _leaves_choice(self, mask: MaskRow) -> bool:
        token_ids, values = self.bias(self.num_output_tokens)
        forbidden = token_ids[np.isneginf(values)]
        if not len(forbidden):
            return bool(mask.any())
        return bool((mask & ~mask_of(forbidden, self.vocab_size)).any())


class SeenTokens:
    """The distinct tokens of a request, with how often each came in its output."""

    def __init__(self, prompt_token_ids: Sequence[int]) -> None:
        distinct = np.unique(np.asarray(prompt_token_ids, np.int32))
        self.num_tokens = len(distinct)
        self._token_ids = np.empty(max(64, 2 * self.num_tokens), np.int32)
        self._token_ids[: self.num_tokens] = distinct
        self._counts = np.zeros(len(self._token_ids), np.int32)
        self._place = {token: place for place, token in enumerate(distinct.tolist())}

    @property
    def token_ids(self) -> Int32:
        return self._token_ids[: self.num_tokens]

    @property
    def counts(self) -> Int32:
        return self._counts[: self.num_tokens]

    def add(self, token_ids: Sequence[int]) -> None:
        for token in token_ids:
            place = self._place.setdefault(token, self.num_tokens)
            if place == self.num_tokens:
                if place == len(self._counts):
                    self._token_ids = np.concatenate([self._token_ids, self._token_ids])
                    self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
                self._token_ids[place] = token
                self.num_tokens += 1
            self._counts[place] += 1


class RequestBias:
    """logit_bias, bad_words and min_tokens as one list of additions to logits."""

    def __init__(self, params: SamplingParams, eos_token_ids: Iterable[int]) -> None:
        always: dict[int, float] = dict(params.logit_bias or {})
        words = params.bad_words_token_ids or []
        always.update({word[0]: -np.inf for word in words if len(word) == 1})
        early = dict(always)
        self.min_tokens = params.min_tokens
        if self.min_tokens:
            stop = [*eos_token_ids, *(params.stop_token_ids or ())]
            early.update(dict.fromkeys(stop, -np.inf))
        self._always = _as_arrays(always)
        self._early = _as_arrays(early)
        # A word's last token is forbidden right after its others (phrase: the others, the last).
        self._phrases = [(word[:-1], word[-1]) for word in words if len(word) > 1]
        self._tail: list[int] = []
        self._tail_len = max((len(start) for start, _ in self._phrases), default=0)

    def __bool__(self) -> bool:
        return bool(len(self._early[0])) or self.has_phrases

    @property
    def has_phrases(self) -> bool:
        return bool(self._phrases)

    def advance(self, token_ids: Sequence[int]) -> None:
        if self._tail_len:
            self._tail = [*self._tail, *token_ids][-self._tail_len :]

    def at(self, num_output_tokens: int) -> tuple[Int32, Float32]:
        token_ids, values = self._early if num_output_tokens < self.min_tokens else self._always
        ends = {
            last
            for start, last in self._phrases
            if len(start) <= len(self._tail) and self._tail[-len(start) :] == start
        }
        if not ends:
            return token_ids, values
        forbidden = np.array(sorted(ends), np.int32)
        others = ~np.isin(token_ids, forbidden)
        return (
            np.concatenate([token_ids[others], forbidden]),
            np.concatenate([values[others], np.full(len(forbidden), -np.inf, np.float32)]),
        )


def mask_of(token_ids: Sequence[int] | Int32, vocab_size: int) -> MaskRow:
    """The mask row that allows these tokens alone."""
    allowed = np.zeros(-(-vocab_size // 32) * 32, np.bool_)
    allowed[np.asarray(token_ids, np.int64)] = True
    return np.packbits(allowed, bitorder="little").view("<u4").astype(np.uint32, copy=False)


def _as_arrays(bias: dict[int, float]) -> tuple[Int32, Float32]:
    return np.array(list(bias), np.int32), np.array(list(bias.values()), np.float32)
