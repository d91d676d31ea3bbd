"""Names and numbers a platform reports about itself, and what the core tells it to build."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType

CONTRACT = (1, 0)
"""Version of this contract.  A new optional hook, hook argument, field with a default or feature
adds to the second number; anything an existing backend could notice adds to the first."""

EMPTY: Mapping[str, object] = MappingProxyType({})


class Feature(str, Enum):
    """What a platform may offer beyond greedy and random generation.  Claimed means tested by the
    conformance kit; a request that needs an unclaimed one is refused at admission."""

    LOGPROBS = "logprobs"
    """Log-probabilities of sampled tokens and of the most likely alternatives."""
    PROMPT_LOGPROBS = "prompt_logprobs"
    """Log-probabilities of prompt tokens (``ScheduledBatch.score``)."""
    PENALTIES = "penalties"
    """Presence, frequency and repetition penalties (``SamplingBatch.penalties``)."""
    TOKEN_BIAS = "token_bias"
    """Additive logit changes: logit_bias, bad_words, min_tokens (``SamplingBatch.bias``)."""
    TOKEN_MASK = "token_mask"
    """Allowed-token bitmasks: structured outputs, allowed_token_ids (``SamplingBatch.mask``)."""
    BLOCK_COPY = "block_copy"
    """Copies of cache blocks before a step (``ScheduledBatch.block_copies``), for copy on write."""
    TENSOR_PARALLEL = "tensor_parallel"
    """One model over several devices of one host."""


@dataclass(frozen=True)
class PlatformInfo:
    """A platform's card: cheap to make, safe to print."""

    name: str  # the entry point's name and the word after --device
    summary: str
    contract: tuple[int, int]
    priority: int = 100  # the usable platform with the highest one is what ``auto`` means


@dataclass(frozen=True)
class DeviceInfo:
    """One device a platform found.  ``--device platform:id`` selects it."""

    id: str  # "0", "1", or the platform's own word such as "GPU.1"
    name: str
    memory_bytes: int = 0  # 0 where the platform has no number to give
    problem: str = ""  # why this device cannot be used; empty means usable
    details: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class StepLimits:
    """What one step may hold: all that the scheduler knows about hardware."""

    max_tokens: int
    max_requests: int
    mixed: bool = True  # prefill and decode may share a step
    chunked_prefill: bool = (
        True  # a step may start from a non-empty context; False: no prefix cache
    )
    steps_in_flight: int = 1  # > 1: PENDING tokens are understood
    token_sizes: tuple[int, ...] = ()  # hint: steps up to each of these sizes cost the same


@dataclass(frozen=True)
class Capabilities:
    """What a platform can do for one model.  The core decides from this record alone."""

    limits: StepLimits
    dtypes: tuple[str, ...]  # compute dtypes, the preferred one first
    kv_dtypes: tuple[str, ...] = ("auto",)  # "auto" is the compute dtype
    quantizations: tuple[str, ...] = ()
    features: frozenset[Feature] = frozenset()
    block_sizes: tuple[int, ...] = ()  # accepted KV block sizes; empty: any


@dataclass(frozen=True)
class ModelInfo:
    """A model as its config.json describes it; no weights, no torch."""

    path: str  # the local folder
    architecture: str  # e.g. "LlamaForCausalLM"
    config: Mapping[str, object]  # config.json, whole (the text part of a multimodal one)
    dtype: str  # what the checkpoint is stored in
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_len: int  # positions the model was made for


@dataclass(frozen=True)
class RunnerConfig:
    """What the core asks of a runner, every choice already made."""

    dtype: str
    kv_cache_dtype: str = "auto"
    quantization: str | None = None
    load_format: str = "auto"  # auto | safetensors | pt | dummy
    block_size: int | None = None  # None: the runner chooses and says so in its KVCacheSpec
    max_model_len: int = 2048
    max_tokens: int = 2048  # largest step
    max_requests: int = 256  # slots are 0 .. max_requests - 1
    steps_in_flight: int = 1
    tensor_parallel_size: int = 1
    memory_fraction: float = 0.9  # of the device's memory, for weights, work space and cache
    kv_cache_bytes: int | None = None  # the user's own number instead
    seed: int = 0
    trust_remote_code: bool = False
    show_progress: bool = False
    # What pagoda_add_arguments added, as far as the user chose it.
    platform_options: Mapping[str, object] = field(default_factory=lambda: EMPTY)


@dataclass(frozen=True)
class StepStats:
    """One finished step, for observers and metrics.  Times in seconds."""

    step: int
    started: float  # time.monotonic() at scheduling
    seconds: float  # from scheduling to tokens
    num_requests: int
    num_tokens: int  # run in this step
    num_sampled: int
    num_running: int
    num_waiting: int
    kv_usage: float  # 0..1 of the blocks
    prefix_queries: int  # tokens looked up in the prefix cache, since start
    prefix_hits: int  # tokens found there, since start
    num_preemptions: int  # since start
