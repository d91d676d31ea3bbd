"""What passes between a client and its engine, in one process or across two."""

from __future__ import annotations

import msgspec

from pagoda.sampling.params import SamplingParams


class EngineRequest(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """One sequence to continue.  ``n`` > 1 is ``n`` of these, the later ones forks of the first."""

    request_id: str
    prompt_token_ids: list[int]
    params: SamplingParams  # with seed set and stop strings left to the client
    eos_token_ids: tuple[int, ...] = ()
    priority: int = 0  # lower runs earlier
    fork_of: str | None = None  # share this request's prompt blocks
    cache_salt: str = ""  # prefixes are shared only between requests of equal salt


class PositionLogprobs(msgspec.Struct, array_like=True):
    """One token's log-probability, then its alternatives', best first."""

    token_ids: list[int]
    logprobs: list[float]
    rank: int


class EngineOutput(msgspec.Struct, omit_defaults=True, kw_only=True):
    """What one step brought one request."""

    request_id: str
    token_ids: list[int] = []
    logprobs: list[PositionLogprobs] | None = None  # aligned with token_ids
    prompt_logprobs: list[PositionLogprobs] | None = None  # of prompt tokens 1.. scored this step
    finish_reason: str | None = None  # "stop" | "length" | "abort" | "error"
    stop_reason: int | str | None = None
    num_cached_tokens: int = 0  # with the first token, as the next
    time_in_queue: float | None = None  # seconds until it first ran
    error: str | None = None  # with finish_reason "error": why


class EngineStats(msgspec.Struct, kw_only=True):
    """The engine's state after a step, for metrics."""

    num_running: int = 0
    num_waiting: int = 0
    kv_usage: float = 0.0
    prefix_queries: int = 0
    prefix_hits: int = 0
    num_preemptions: int = 0
    num_steps: int = 0


class EngineOutputs(msgspec.Struct, kw_only=True, tag=True):
    """Everything one step brought."""

    outputs: list[EngineOutput]
    stats: EngineStats


class Abort(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Stop these requests; unknown ids are ignored."""

    request_ids: list[str]


class EngineInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a client may know of the engine behind it."""

    model_path: str
    architecture: str
    vocab_size: int
    eos_token_ids: list[int]  # as the model's configs name them; may be empty
    max_model_len: int
    dtype: str
    platform: str
    devices: list[str]
    features: list[str]
    num_blocks: int
    block_size: int
    max_num_seqs: int
    max_num_batched_tokens: int


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The engine process has loaded its model."""

    info: EngineInfo


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The engine process ends: why."""

    message: str
    expected: bool  # an error that Pagoda explains; else a traceback
