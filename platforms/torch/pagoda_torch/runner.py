"""The model runner of every torch platform: one step in, tokens out.

What differs between devices comes with the ``TorchFamily``; what differs between models comes
with the ``CausalLM``.  Nothing here waits for the device before a result is asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pagoda.platform import (
    KVCacheSpec,
    KVGroup,
    Logprobs,
    ModelInfo,
    OutOfMemory,
    PagodaError,
    RunnerConfig,
    ScheduledBatch,
    ScoreBatch,
    StepHandle,
    StepResult,
    UnsupportedFeature,
)
from pagoda_torch.attention import AttentionBackend, AttentionSpec
from pagoda_torch.cache_memory import zeros
from pagoda_torch.decode_graphs import DecodeGraphs
from pagoda_torch.family import Download, TorchFamily
from pagoda_torch.layers.attention import Attention
from pagoda_torch.layers.context import ModelContext
from pagoda_torch.loader import load_weights
from pagoda_torch.models.interface import CausalLM
from pagoda_torch.models.registry import model_class
from pagoda_torch.ops import make_ops
from pagoda_torch.preparing import Preparing
from pagoda_torch.sampler import DeviceLogprobs, logprobs_of, sample
from pagoda_torch.step import make_step
from pagoda_torch.step_checks import StepChecks
from pagoda_torch.trial import trial_batch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CACHE_DTYPES = {
    **DTYPES,
    "int8": torch.int8,
    "fp8_e4m3": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}

SCORE_ELEMENTS = 1 << 24
"""Prompt logits held at a time, rows times vocabulary."""

GRAPH_BYTES = 512 << 20
"""Set aside for recorded steps beside their logits."""


@dataclass(frozen=True)
class TorchStepHandle:
    """A launched step; its arrays come when asked for."""

    download: Download

    def result(self) -> StepResult:
        arrays = self.download.wait()
        return StepResult(
            token_ids=arrays["token_ids"].astype(np.int32),
            logprobs=_host_logprobs(arrays, "sampled"),
            score=_host_logprobs(arrays, "score"),
            logits=arrays.get("logits"),
        )


class TorchRunner:
    """One model on one torch device; implements ``pagoda.platform.ModelRunner``."""

    def __init__(self, config: RunnerConfig, info: ModelInfo, family: TorchFamily):
        if config.dtype not in DTYPES:
            raise UnsupportedFeature(f"dtype {config.dtype!r}", f"one of {', '.join(DTYPES)}")
        for name, value, known in (
            ("kv_cache_dtype", config.kv_cache_dtype, ("auto", config.dtype, *family.kv_dtypes)),
            ("quantization", config.quantization, (None, *family.quantizations)),
            ("tensor_parallel_size", config.tensor_parallel_size, (1,)),
        ):
            if value not in known:
                raise UnsupportedFeature(f"torch platforms have no {name} {value!r} yet")
        self.config, self.info, self.family = config, info, family
        self.device = family.device
        self.block_size = config.block_size or family.default_block_size
        self.context = ModelContext(
            info=info,
            max_model_len=config.max_model_len,
            dtype=DTYPES[config.dtype],
            device=self.device.device,
            ops=make_ops(family.ops),
            trust_remote_code=config.trust_remote_code,
        )
        self._backends: list[AttentionBackend] = []
        self._model: CausalLM | None = None
        self._graphs: DecodeGraphs | None = None
        self._num_blocks = 0
        self._checks = StepChecks(config)

    def load(self) -> None:
        config = self.config
        free, _ = self.device.memory()
        with torch.inference_mode():
            try:
                model = model_class(self.info)(self.context)
            except torch.OutOfMemoryError as error:
                raise OutOfMemory(
                    f"the weights in {config.dtype} take more than the {_gib(free)} that are free",
                    "a smaller model or dtype",
                ) from error
            for layer in self.context.attention_layers:
                layer.backend = self._choose(layer.spec)
            self._backends = list(
                {layer.backend.name: layer.backend for layer in self._layers}.values()
            )
            targets = model.weights()
            self._check_room(targets, free)
            self._last_tokens = torch.zeros(  # one to spare, for rows that are padding
                config.max_requests + 1, dtype=torch.int64, device=self.device.device
            )
            self._model = model
            compiled = self.family.compile_ahead(self._rehearse)
            preparing = Preparing(self.context.linears, targets, self.family.prepares_parts)
            del targets
            load_weights(
                *(model, self.info.path, config.load_format, config.seed, config.show_progress),
                *(preparing.take, preparing.filled),
            )
            preparing.finish()
            self.family.loaded()
            compiled()

    def _check_room(self, weights: Mapping[str, Tensor], free: int) -> None:
        """Before anything is read: the weights as they will be, and the cache of one request."""
        config, size = self.config, self.context.dtype.itemsize
        linear = sum(layer.weight.numel() for layer in self.context.linears)
        needed = sum(x.numel() * x.element_size() for x in weights.values()) - linear * size
        needed += self.family.prepared_bytes(linear, size)
        blocks = -(-config.max_model_len // self.block_size)
        cache = blocks * self.kv_cache_spec().groups[0].block_bytes
        if needed + cache > free:
            raise OutOfMemory(
                f"the weights take {_gib(needed)} in {config.quantization or config.dtype} and the"
                f" cache of one request of {config.max_model_len} tokens {_gib(cache)},"
                f" {_gib(free)} are free",
                "a smaller model, dtype or max_model_len, or quantized weights",
            )

    @property
    def _cache_dtype(self) -> torch.dtype:
        name = self.config.kv_cache_dtype
        return self.context.dtype if name == "auto" else CACHE_DTYPES[name]

    @property
    def _layers(self) -> list[Attention]:
        return self.context.attention_layers

    def _choose(self, spec: AttentionSpec) -> AttentionBackend:
        reasons = []
        for backend in self.family.attention:
            reason = backend.refuses(spec)
            if reason is None:
                return backend
            reasons.append(f"{backend.name}: {reason}")
        raise UnsupportedFeature(f"no attention for {spec} ({'; '.join(reasons)})")

    def kv_cache_spec(self) -> KVCacheSpec:
        size = self._cache_dtype.itemsize
        shapes = [x.backend.cache_shape(1, self.block_size, x.spec) for x in self._layers]
        return KVCacheSpec((KVGroup(self.block_size, size * sum(map(math.prod, shapes))),))

    def free_kv_bytes(self) -> int:
        """What is left of the device's share after weights and the largest step, and no more than
        the most requests of the greatest length could fill."""
        config, spec = self.config, self.kv_cache_spec().groups[0]
        if config.kv_cache_bytes is not None:
            return config.kv_cache_bytes
        step = self._step_bytes()
        free, total = self.device.memory()
        room = int(total * config.memory_fraction) - (total - free) - step
        if room < spec.block_bytes:
            raise OutOfMemory(
                f"no room for the KV cache: {_gib(free)} of {_gib(total)} are free, the largest"
                f" step takes {_gib(step)}",
                "fewer max_num_batched_tokens or a higher gpu_memory_utilization",
            )
        blocks = -(-config.max_model_len // self.block_size) * config.max_requests
        limits = [room, blocks * spec.block_bytes]
        if self.family.most_cache_bytes is not None:
            one_request = -(-config.max_model_len // self.block_size) * spec.block_bytes
            limits.append(max(self.family.most_cache_bytes, one_request))
        return min(limits)

    def _step_bytes(self) -> int:
        """The largest step's work space, measured where the device can, else a bound: activations,
        logits and what sampling makes; and what recorded steps keep."""
        info, config, size = self.info, self.config, self.context.dtype.itemsize
        rows = min(config.max_requests, config.max_tokens)
        logits = rows * info.vocab_size * (size + 8) + SCORE_ELEMENTS * 16
        kept = 0 if self.family.graphs is None else GRAPH_BYTES + logits
        found = self.device.peak_bytes(self._run_largest)
        if found is None:
            found = 24 * config.max_tokens * info.num_heads * info.head_dim * size + logits
        return found + kept

    def _run_largest(self) -> None:
        """The most tokens for the most requests, all drawn at random, over a cache that holds one
        of them and is dropped again."""
        config = self.config
        rows = min(config.max_requests, config.max_tokens)
        query = min(config.max_tokens // rows, config.max_model_len)
        num_blocks = -(-query // self.block_size)
        self.init_kv_cache(num_blocks)
        self.submit(trial_batch(0, query, rows, num_blocks, temperature=1.0)).result()
        self._drop_cache()

    def _drop_cache(self) -> None:
        for layer in self._layers:
            layer.cache = torch.empty(0)
        self._graphs, self._num_blocks = None, 0

    def init_kv_cache(self, num_blocks: int) -> None:
        dtype, device = self._cache_dtype, self.context.device
        for layer in self._layers:
            shape = layer.backend.cache_shape(num_blocks, self.block_size, layer.spec)
            try:
                layer.cache = zeros(shape, dtype, device)
            except (RuntimeError, MemoryError) as error:  # what torch calls out of memory
                needed = _gib(num_blocks * self.kv_cache_spec().groups[0].block_bytes)
                raise OutOfMemory(
                    f"{num_blocks} blocks of KV cache take {needed}, more than {device} has",
                    "fewer --num-blocks or a smaller --max-model-len",
                ) from error
        self._num_blocks = num_blocks
        capture, model = self.family.graphs, self._model
        if capture is None or model is None or not model.can_record:
            return
        if not all(backend.can_record for backend in self._backends):
            return
        with torch.inference_mode():
            self._graphs = DecodeGraphs(
                *(capture, model, self.context, self.device),
                *(self._backends, self._last_tokens, self.block_size),
            )

    def warm_up(self) -> None:
        """Run a prompt and a decode once: first calls are slow, and no request shall pay for it."""
        longest = min(self.block_size, self.config.max_tokens, self.config.max_model_len - 1)
        for context, query in ((0, longest), (longest - 1, 1)):
            self.submit(trial_batch(context, query)).result()

    def _rehearse(self) -> None:
        """Steps like the first that there will be: prompts, what warms up, decodes of some rows.
        All are greedy, for what they compute is no number that a token could be drawn by."""
        config = self.config
        rows = min(2, config.max_requests, config.max_tokens)
        query = min(96, config.max_tokens // rows, config.max_model_len)
        num_blocks = -(-query // self.block_size)
        self.init_kv_cache(num_blocks)
        self.submit(trial_batch(0, query, rows, num_blocks)).result()
        self.warm_up()
        self.submit(trial_batch(query - 1, 1, rows, num_blocks)).result()
        self._drop_cache()

    def submit(self, batch: ScheduledBatch) -> StepHandle:
        model = self._model
        if model is None or not self._num_blocks:
            raise PagodaError("submit() before load() and init_kv_cache()")
        self._checks.check(batch)
        return TorchStepHandle(self.device.launch(lambda: self._run(model, batch)))

    @torch.inference_mode()
    def _run(self, model: CausalLM, batch: ScheduledBatch) -> Mapping[str, Tensor]:
        upload, graphs = self.device.upload, self._graphs
        if graphs is not None and graphs.takes(batch):
            greedy = batch.sampling.plain_greedy and not batch.want_logits
            output = graphs.run(batch, greedy)
            return {"token_ids": output} if greedy else self._sample(model, output, batch, {})
        if batch.block_copies is not None:
            source, destination = upload(batch.block_copies.T.astype(np.int64))
            for layer in self._layers:
                layer.backend.copy_blocks(layer.cache, source, destination)
        dtype = self.context.dtype
        step = make_step(batch, self.block_size, self.device, dtype, self._last_tokens)
        for backend in self._backends:
            step.plans[backend.name] = backend.plan(step)
        hidden = model.forward(step.token_ids, step.positions, step)
        found: dict[str, Tensor] = {}
        if batch.score is not None:
            found |= _named("score", self._score(model, hidden, batch.score))
        if len(batch.sample_rows) < len(batch.token_ids):
            hidden = hidden[upload(batch.logit_index.astype(np.int64))]
        return self._sample(model, hidden, batch, found)

    def _sample(
        self, model: CausalLM, hidden: Tensor, batch: ScheduledBatch, found: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Tokens for hidden states [S, H], kept for the next step, beside what was ``found``."""
        logits = model.logits(hidden)
        if batch.want_logits:
            found["logits"] = logits.float()
        tokens, logprobs = sample(logits, batch.sampling, self.device)
        slots = self.device.upload(batch.slots[batch.sample_rows].astype(np.int64))
        self._last_tokens.index_copy_(0, slots, tokens)
        found["token_ids"] = tokens
        return found if logprobs is None else found | _named("sampled", logprobs)

    def _score(self, model: CausalLM, hidden: Tensor, score: ScoreBatch) -> DeviceLogprobs:
        """Prompt logprobs a few rows at a time, for [P, V] may be larger than the model."""
        each = max(1, SCORE_ELEMENTS // self.info.vocab_size)
        rows = torch.split(self.device.upload(score.token_rows.astype(np.int64)), each)
        targets = torch.split(self.device.upload(score.targets.astype(np.int64)), each)
        count = score.num_logprobs
        parts = [
            logprobs_of(model.logits(hidden[some]).float(), wanted, count, self.device)
            for some, wanted in zip(rows, targets, strict=True)
        ]
        return DeviceLogprobs(
            token_ids=torch.cat([part.token_ids for part in parts]),
            logprobs=torch.cat([part.logprobs for part in parts]),
            ranks=torch.cat([part.ranks for part in parts]),
        )

    def close(self) -> None:
        self._model = self._graphs = None
        for layer in self._layers:
            layer.__dict__.pop("cache", None)
        self.context.attention_layers.clear()
        self.context.linears.clear()
        self.device.close()


def _named(prefix: str, logprobs: DeviceLogprobs) -> dict[str, Tensor]:
    return {
        f"{prefix}.token_ids": logprobs.token_ids,
        f"{prefix}.logprobs": logprobs.logprobs,
        f"{prefix}.ranks": logprobs.ranks,
    }


def _host_logprobs(arrays: Mapping[str, npt.NDArray[Any]], prefix: str) -> Logprobs | None:
    if f"{prefix}.ranks" not in arrays:
        return None
    return Logprobs(
        token_ids=arrays[f"{prefix}.token_ids"].astype(np.int32),
        logprobs=arrays[f"{prefix}.logprobs"],
        ranks=arrays[f"{prefix}.ranks"].astype(np.int32),
    )


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2f} GiB"
