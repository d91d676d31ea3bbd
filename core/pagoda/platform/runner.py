"""What a platform builds: a ModelRunner that turns scheduled steps into tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from pagoda.platform.batch import Float32, Int32, ScheduledBatch


@dataclass(frozen=True)
class KVGroup:
    """Layers that share a block table.  A block's inside is the runner's own business."""

    block_size: int  # tokens
    block_bytes: int  # over all layers of the group
    kind: str = "full"  # full | window | state
    window: int | None = None  # tokens, for kind "window"


@dataclass(frozen=True)
class KVCacheSpec:
    """How the runner wants its cache memory cut up."""

    groups: tuple[KVGroup, ...]


@dataclass(frozen=True)
class Logprobs:
    """Log-probabilities of N tokens under the raw logits (float32 log-softmax, before temperature,
    penalties, bias and masks), each with its K most likely alternatives."""

    token_ids: Int32  # [N, K+1] the token itself, then the K most likely, best first
    logprobs: Float32  # [N, K+1]
    ranks: Int32  # [N] 1 + how many tokens are more likely than the token itself


@dataclass(frozen=True)
class StepResult:
    """What one step brought back to the host."""

    token_ids: Int32  # [S]; with speculation [sum(counts)]
    counts: Int32 | None = None  # [S] tokens per row when more than one may come back
    logprobs: Logprobs | None = None  # [S] when sampling.wants_logprobs; K the batch's largest
    score: Logprobs | None = None  # [P] aligned with ScheduledBatch.score
    logits: Float32 | None = None  # [S, V] when want_logits


class StepHandle(Protocol):
    """A submitted step."""

    def result(self) -> StepResult:
        """Wait for the step and return its tokens; raise what the step raised."""
        ...


@dataclass(frozen=True)
class Done:
    """The StepHandle of runners that finish inside ``submit``."""

    value: StepResult

    def result(self) -> StepResult:
        return self.value


class ModelRunner(Protocol):
    """One model on one platform; may span many devices and processes, which the core never sees.

    Called in this order, from one thread: load, kv_cache_spec, free_kv_bytes, init_kv_cache,
    warm_up, submit..., close.
    """

    def load(self) -> None:
        """Put the weights in place.  Raise BadCheckpoint or OutOfMemory with names and numbers."""
        ...

    def kv_cache_spec(self) -> KVCacheSpec:
        """How the cache is cut into blocks; asked after load, since some compile to find out."""
        ...

    def free_kv_bytes(self) -> int:
        """Bytes that the cache may take, the largest step's work space already set aside."""
        ...

    def init_kv_cache(self, num_blocks: int) -> None:
        """Allocate ``num_blocks`` blocks in every group; ids are 0 .. num_blocks - 1.  Raise
        OutOfMemory with numbers."""
        ...

    def warm_up(self) -> None:
        """Compile and capture everything that will ever be needed."""
        ...

    def submit(self, batch: ScheduledBatch) -> StepHandle:
        """Start one step.  Must not wait for the device when steps_in_flight > 1."""
        ...

    def close(self) -> None:
        """Free device memory, stop processes.  May be called more than once."""
        ...
