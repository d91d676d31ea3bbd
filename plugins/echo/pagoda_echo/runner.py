"""The ModelRunner: one scheduled step in, tokens out."""

from __future__ import annotations

import numpy as np

from pagoda.platform import (
    PENDING,
    Done,
    KVCacheSpec,
    KVGroup,
    ModelInfo,
    PagodaError,
    RunnerConfig,
    ScheduledBatch,
    StepHandle,
    StepResult,
    UnsupportedFeature,
)
from pagoda.sampling.reference import sample
from pagoda_echo.cache import Float32, PagedCache, block_bytes
from pagoda_echo.llama import Llama, refuse_what_is_not_plain_llama
from pagoda_echo.plugin import BLOCK_SIZE

CACHE_BYTES = 1 << 28  # for a platform that measures no device: enough to try it out


class EchoRunner:
    """Finishes every step inside ``submit``, which is what steps_in_flight 1 allows."""

    def __init__(self, config: RunnerConfig, model: ModelInfo):
        refuse_what_is_not_plain_llama(model)
        self.config = config
        self.model = model
        self.llama: Llama | None = None
        self.cache: PagedCache | None = None

    def load(self) -> None:
        self.llama = Llama(self.model, self.config)

    def kv_cache_spec(self) -> KVCacheSpec:
        return KVCacheSpec((KVGroup(BLOCK_SIZE, block_bytes(self.model)),))

    def free_kv_bytes(self) -> int:
        return self.config.kv_cache_bytes or CACHE_BYTES

    def init_kv_cache(self, num_blocks: int) -> None:
        self.cache = PagedCache(self.model, num_blocks)

    def warm_up(self) -> None:
        """Nothing is compiled here."""

    def submit(self, batch: ScheduledBatch) -> StepHandle:
        llama, cache = self.llama, self.cache
        if llama is None or cache is None:
            raise PagodaError("submit() before load() and init_kv_cache()")
        self._refuse_what_was_not_offered(batch)

        def attend(layer: int, query: Float32, key: Float32, value: Float32) -> Float32:
            cache.write(layer, batch, key, value)
            return cache.attend(layer, batch, query)

        hidden = llama.forward(batch.token_ids, batch.positions, attend)
        logits = llama.logits(hidden[batch.logit_index])  # [S, V]; S may be 0
        token_ids, logprobs = sample(logits, batch.sampling)
        kept = logits if batch.want_logits else None
        return Done(StepResult(token_ids, logprobs=logprobs, logits=kept))

    def close(self) -> None:
        self.llama = self.cache = None

    def _refuse_what_was_not_offered(self, batch: ScheduledBatch) -> None:
        """The core keeps to what pagoda_capabilities said; a wrong answer would hide it if not."""
        agreed = {
            "tokens": (len(batch.token_ids), self.config.max_tokens),
            "requests": (len(batch.slots), self.config.max_requests),
            "positions": (int(batch.seq_lens.max(initial=0)), self.config.max_model_len),
        }
        for name, (found, most) in agreed.items():
            if found > most:
                raise PagodaError(f"a step of {found} {name}, {most} were agreed")
        refused = {
            "PENDING tokens (steps_in_flight is 1)": bool(np.any(batch.token_ids == PENDING)),
            "prompt_logprobs": batch.score is not None,
            "block_copy": batch.block_copies is not None,
        }
        for name, present in refused.items():
            if present:
                raise UnsupportedFeature(f"platform 'echo' does not offer {name}")
