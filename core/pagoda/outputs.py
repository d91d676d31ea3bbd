"""What a user gets back: RequestOutput and its parts, with vLLM's names."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Logprob:
    """Log-probability of one token at one position."""

    logprob: float
    rank: int | None = None  # 1 = most likely
    decoded_token: str | None = None


TokenLogprobs = dict[int, Logprob]
"""One position: token id to Logprob, the chosen token first."""


@dataclass
class CompletionOutput:
    """One continuation of a prompt."""

    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None = None
    logprobs: list[TokenLogprobs] | None = None
    finish_reason: str | None = None  # stop | length | abort | error; None while running
    stop_reason: int | str | None = None  # the stop token id or stop string that ended it

    def finished(self) -> bool:
        return self.finish_reason is not None


@dataclass
class RequestMetrics:
    """Moments in the life of a request; seconds, time.monotonic()."""

    arrival_time: float = 0.0
    time_in_queue: float | None = None  # seconds that it waited until it first ran
    first_token_time: float | None = None
    finished_time: float | None = None


@dataclass
class RequestOutput:
    """A request's prompt and its continuations so far."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool
    prompt_logprobs: list[TokenLogprobs | None] | None = None  # None first: nothing predicts it
    num_cached_tokens: int = 0  # prompt tokens that the prefix cache saved
    metrics: RequestMetrics = field(default_factory=RequestMetrics)
    error: str | None = None  # why, when a continuation's finish_reason is "error"
