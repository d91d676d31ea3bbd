"""One step at a time in NumPy: the cache, the model and the reference sampler put together."""

from __future__ import annotations

import numpy as np

from pagoda.models.rope import frequencies
from pagoda.models.shape import read_shape
from pagoda.platform.batch import PENDING, Float32, Int32, ScheduledBatch
from pagoda.platform.errors import OutOfMemory, PagodaError, UnsupportedFeature
from pagoda.platform.runner import (
    Done,
    KVCacheSpec,
    KVGroup,
    Logprobs,
    ModelRunner,
    StepHandle,
    StepResult,
)
from pagoda.platform.types import ModelInfo, RunnerConfig
from pagoda.reference.attention import PagedCache
from pagoda.reference.checks import check_batch
from pagoda.reference.llama import Llama
from pagoda.reference.load import load_weights
from pagoda.sampling.reference import logprobs_of, sample

DEFAULT_BLOCK_SIZE = 16
MOST_CACHE_BYTES = 1 << 29  # enough to check with; a user's own number has no limit


class ReferenceRunner:
    """A ModelRunner whose every step is finished when ``submit`` returns."""

    def __init__(self, config: RunnerConfig, model: ModelInfo):
        self.config = config
        self.model = model
        self.shape = read_shape(model, "reference")
        frequencies(self.shape.rope, self.shape.head_dim, "reference")
        for name, value, known in (
            ("dtype", config.dtype, ("float32",)),
            ("kv_cache_dtype", config.kv_cache_dtype, ("auto", "float32")),
            ("quantization", config.quantization, (None,)),
            ("tensor_parallel_size", config.tensor_parallel_size, (1,)),
        ):
            if value not in known:
                raise UnsupportedFeature(f"the reference platform has no {name} {value!r}")
        self.block_size = config.block_size or DEFAULT_BLOCK_SIZE
        self._llama: Llama | None = None
        self._cache: PagedCache | None = None
        self._last_token: Int32 = np.full(config.max_requests, PENDING, np.int32)  # by slot

    def load(self) -> None:
        weights = load_weights(self.shape, self.model, self.config)
        self._llama = Llama(self.shape, weights, self.config.max_model_len)

    def kv_cache_spec(self) -> KVCacheSpec:
        shape = self.shape
        per_token = 2 * 4 * shape.num_layers * shape.num_kv_heads * shape.head_dim
        return KVCacheSpec((KVGroup(self.block_size, self.block_size * per_token),))

    def free_kv_bytes(self) -> int:
        if self.config.kv_cache_bytes is not None:
            return self.config.kv_cache_bytes
        block_bytes = self.kv_cache_spec().groups[0].block_bytes
        one_request = -(-self.config.max_model_len // self.block_size) * block_bytes
        return max(one_request, min(one_request * self.config.max_requests, MOST_CACHE_BYTES))

    def init_kv_cache(self, num_blocks: int) -> None:
        try:
            self._cache = PagedCache(self.shape, num_blocks, self.block_size)
        except (MemoryError, ValueError) as error:  # ValueError: more than an address can say
            gib = num_blocks * self.kv_cache_spec().groups[0].block_bytes / 2**30
            raise OutOfMemory(
                f"{num_blocks} blocks of KV cache take {gib:.1f} GiB, more than there is",
                "fewer --num-blocks or a smaller --max-model-len",
            ) from error

    def warm_up(self) -> None:
        """Nothing is compiled here."""

    def submit(self, batch: ScheduledBatch) -> StepHandle:
        llama, cache = self._llama, self._cache
        if llama is None or cache is None:
            raise PagodaError("submit() before load() and init_kv_cache()")
        check_batch(batch, self.config, self.shape.vocab_size, cache.keys.shape[1], self.block_size)
        token_ids = self._known_tokens(batch)
        if batch.block_copies is not None:
            cache.copy_blocks(batch.block_copies)
        slots = batch.cache_slots(self.block_size)

        def attend(layer: int, query: Float32, key: Float32, value: Float32) -> Float32:
            cache.write(layer, slots, key, value)
            return cache.attend(layer, query, batch)

        hidden = llama.forward(token_ids, batch.positions, attend)
        logits = llama.logits(hidden[batch.logit_index])
        sampled, logprobs = sample(logits, batch.sampling)
        self._last_token[batch.slots[batch.sample_rows]] = sampled
        return Done(
            StepResult(
                token_ids=sampled,
                logprobs=logprobs,
                score=self._score(batch, llama, hidden),
                logits=logits if batch.want_logits else None,
            )
        )

    def close(self) -> None:
        self._llama = self._cache = None

    def _known_tokens(self, batch: ScheduledBatch) -> Int32:
        """[T] with what each slot sampled in the step before where the batch says PENDING."""
        self._last_token[batch.slots[batch.admitted]] = PENDING
        last = self._last_token[batch.slots[batch.rows]]
        token_ids = np.where(batch.token_ids == PENDING, last, batch.token_ids)
        if (token_ids == PENDING).any():
            raise PagodaError("a PENDING token in a slot that has sampled nothing")
        return token_ids

    def _score(self, batch: ScheduledBatch, llama: Llama, hidden: Float32) -> Logprobs | None:
        if batch.score is None:
            return None
        logits = llama.logits(hidden[batch.score.token_rows])
        return logprobs_of(logits, batch.score.targets, batch.score.num_logprobs)


def poison_cache(runner: ModelRunner) -> None:
    """Fill the cache with NaN; the conformance kit shows with it that nothing unwritten is read."""
    if not isinstance(runner, ReferenceRunner) or runner._cache is None:
        raise PagodaError(f"{runner!r} is no reference runner with a cache")
    runner._cache.keys[:] = runner._cache.values[:] = np.nan
