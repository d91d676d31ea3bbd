"""One user's request while it runs: its continuations, their text, what was handed on already."""

from __future__ import annotations

import time

from pagoda.engine.messages import EngineOutput, PositionLogprobs
from pagoda.outputs import (
    CompletionOutput,
    Logprob,
    RequestMetrics,
    RequestOutput,
    TokenLogprobs,
)
from pagoda.sampling.params import RequestOutputKind, SamplingParams
from pagoda.tokenizer import Tokenizer
from pagoda.tokenizer.detokenizer import Detokenizer


class Continuation:
    """One of the n continuations of a prompt."""

    def __init__(
        self,
        index: int,
        detokenizer: Detokenizer | None,
        stop_token_ids: frozenset[int],
        wants_logprobs: bool,
    ):
        self.index = index
        self.stop_token_ids = stop_token_ids  # end of sequence among them
        self.detokenizer = detokenizer
        self.token_ids: list[int] = []
        self.text = ""
        self.logprobs: list[TokenLogprobs] | None = [] if wants_logprobs else None
        self.cumulative_logprob: float | None = 0.0 if wants_logprobs else None
        self.finish_reason: str | None = None
        self.stop_reason: int | str | None = None
        self.error: str | None = None
        self._num_sent = 0
        self._len_sent = 0

    def take(self, output: EngineOutput, logprobs: list[TokenLogprobs]) -> None:
        """Add a step's tokens; sets finish_reason when they end the continuation."""
        self.token_ids += output.token_ids
        if self.logprobs is not None and self.cumulative_logprob is not None:
            self.logprobs += logprobs
            for token, position in zip(output.token_ids, logprobs, strict=True):
                self.cumulative_logprob += position[token].logprob
        self.finish_reason, self.stop_reason = output.finish_reason, output.stop_reason
        self.error = output.error
        if self.detokenizer is None:
            return
        stopped = output.finish_reason == "stop" and self.token_ids[-1] in self.stop_token_ids
        self.text += self.detokenizer.append(output.token_ids, ends_with_stop_token=stopped)
        if self.detokenizer.stop_reason is not None:
            self.finish_reason, self.stop_reason = "stop", self.detokenizer.stop_reason
        elif self.finish_reason is not None:
            self.text += self.detokenizer.flush()
            if self.detokenizer.stop_reason is not None:
                self.finish_reason, self.stop_reason = "stop", self.detokenizer.stop_reason

    def output(self, delta: bool) -> CompletionOutput:
        """Everything so far, or what came since the last call."""
        tokens, text, logprobs = self.token_ids, self.text, self.logprobs
        if delta:
            tokens, text = tokens[self._num_sent :], text[self._len_sent :]
            logprobs = None if logprobs is None else logprobs[self._num_sent :]
            self._num_sent, self._len_sent = len(self.token_ids), len(self.text)
        return CompletionOutput(
            index=self.index,
            text=text,
            token_ids=list(tokens),
            cumulative_logprob=self.cumulative_logprob,
            logprobs=None if logprobs is None else list(logprobs),
            finish_reason=self.finish_reason,
            stop_reason=self.stop_reason,
        )


class Generation:
    """A prompt and its n continuations."""

    def __init__(
        self,
        id: str,
        prompt: str | None,
        prompt_token_ids: list[int],
        params: SamplingParams,
        tokenizer: Tokenizer,
        stop_token_ids: frozenset[int],
    ):
        self.id = id
        self.prompt = prompt
        self.prompt_token_ids = prompt_token_ids
        self.params = params
        self.tokenizer = tokenizer
        self.num_cached_tokens = 0
        self.prompt_logprobs: list[TokenLogprobs | None] | None = (
            None if params.prompt_logprobs is None else [None]
        )
        self.metrics = RequestMetrics(arrival_time=time.monotonic())
        self.continuations = [
            Continuation(
                index,
                Detokenizer(tokenizer, params, prompt_token_ids) if params.detokenize else None,
                stop_token_ids,
                params.logprobs is not None,
            )
            for index in range(params.n)
        ]
        self.news: set[int] = set()  # continuations with something to hand on

    @property
    def finished(self) -> bool:
        return all(c.finish_reason is not None for c in self.continuations)

    def take(self, index: int, output: EngineOutput) -> bool:
        """Add what a step brought to one continuation; True when that one is finished."""
        if output.prompt_logprobs and self.prompt_logprobs is not None:
            self.prompt_logprobs += [self._named(p) for p in output.prompt_logprobs]
        if output.token_ids and self.metrics.first_token_time is None:
            self.metrics.first_token_time = time.monotonic()
        if index == 0 and output.num_cached_tokens:
            self.num_cached_tokens = output.num_cached_tokens
        if index == 0 and output.time_in_queue is not None:
            self.metrics.time_in_queue = output.time_in_queue
        continuation = self.continuations[index]
        continuation.take(output, [self._named(p) for p in output.logprobs or ()])
        if output.token_ids or output.finish_reason is not None:  # else a part of the prompt ran
            self.news.add(index)
        return continuation.finish_reason is not None

    def output(self, now: float) -> RequestOutput:
        """What to hand on, as params.output_kind asks."""
        delta = self.params.output_kind is RequestOutputKind.DELTA
        shown = self.continuations
        if delta:
            shown = [self.continuations[i] for i in sorted(self.news)]
        self.news.clear()
        if self.finished:
            self.metrics.finished_time = now
        return RequestOutput(
            request_id=self.id,
            prompt=self.prompt,
            prompt_token_ids=self.prompt_token_ids,
            outputs=[c.output(delta) for c in shown],
            finished=self.finished,
            prompt_logprobs=self.prompt_logprobs,
            num_cached_tokens=self.num_cached_tokens,
            metrics=self.metrics,
            error=next((c.error for c in self.continuations if c.error), None),
        )

    def _named(self, position: PositionLogprobs) -> TokenLogprobs:
        """The token itself first, then its alternatives by likelihood."""
        chosen, *others = position.token_ids
        named = {chosen: self._logprob(chosen, position.logprobs[0], position.rank)}
        for rank, token in enumerate(others, start=1):
            if token not in named:
                named[token] = self._logprob(token, position.logprobs[rank], rank)
        return named

    def _logprob(self, token: int, value: float, rank: int) -> Logprob:
        return Logprob(value, rank, self.tokenizer.token_text(token))
