"""One sequence in the engine: what was asked, what is known so far, and where it stands."""

from __future__ import annotations

import time
from enum import Enum

from pagoda.sampling.params import SamplingParams
from pagoda.sampling.state import SamplingState


class Status(Enum):
    """WAITING -> RUNNING -> FINISHED; preemption goes back from RUNNING to WAITING."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


class Request:
    """A sequence and its place.  While it runs, numbers that change every step live in the
    SlotTable's row ``slot``; here is what outlives a preemption."""

    __slots__ = (
        "arrival",
        "blocks",
        "digests",
        "fork_of",
        "id",
        "limit",
        "num_cached_tokens",
        "num_preemptions",
        "num_scored",
        "params",
        "priority",
        "prompt_len",
        "published",
        "queued_at",
        "salt",
        "sampling",
        "slot",
        "status",
        "stop_token_ids",
        "time_in_queue",
        "tokens",
    )

    def __init__(
        self,
        id: str,
        prompt_token_ids: list[int],
        params: SamplingParams,
        sampling: SamplingState,
        arrival: int,
        limit: int,
        stop_token_ids: frozenset[int] = frozenset(),
        priority: int = 0,
        fork_of: Request | None = None,
        salt: str = "",
    ):
        self.id = id
        self.params = params
        self.sampling = sampling
        self.arrival = arrival  # order of arrival; kept over preemptions
        self.limit = limit  # prompt plus output at most, in tokens
        self.stop_token_ids = stop_token_ids  # end of sequence among them
        self.priority = priority
        self.fork_of = fork_of  # take over its prompt blocks, if it still has them
        self.salt = salt
        self.tokens = list(prompt_token_ids)  # prompt, then output as the host learns it
        self.prompt_len = len(self.tokens)
        self.status = Status.WAITING
        self.slot = -1
        self.blocks: list[int] = []
        self.digests: list[bytes] = []  # of the full blocks of ``tokens``, as far as computed
        self.published = 0  # blocks offered to the prefix index in this life
        self.num_cached_tokens = 0
        self.num_scored = 0  # prompt tokens whose logprobs were handed on
        self.num_preemptions = 0
        self.queued_at = time.monotonic()
        self.time_in_queue = 0.0  # seconds until it first ran

    @property
    def rank(self) -> tuple[int, int]:
        """Who goes first: lower runs earlier, the highest is preempted first."""
        return self.priority, self.arrival

    @property
    def num_output(self) -> int:
        return len(self.tokens) - self.prompt_len

    @property
    def wants_scores(self) -> bool:
        """Prompt log-probabilities are asked for and not all handed on yet."""
        return self.params.prompt_logprobs is not None and self.num_scored < self.prompt_len - 1
