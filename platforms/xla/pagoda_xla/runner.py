"""The model runner of every XLA platform: one step in, tokens out, nothing compiled after warm-up.

What differs between platforms comes with the ``XlaFamily``; models are pagoda_torch's own."""

from __future__ import annotations

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
from pagoda.sampling.reference import logprobs_of
from pagoda_torch.layers.attention import Attention
from pagoda_torch.layers.context import ModelContext
from pagoda_torch.loader import load_weights
from pagoda_torch.models.registry import NATIVE, model_class
from pagoda_torch.step_checks import StepChecks
from pagoda_xla.attention import XlaAttention
from pagoda_xla.buckets import Buckets
from pagoda_xla.family import Runtime, XlaFamily
from pagoda_xla.graphs import StepGraphs, padding
from pagoda_xla.packing import pack_step
from pagoda_xla.placing import Placer
from pagoda_xla.sampling import MOST_ALTERNATIVES, DeviceLogprobs, SamplerGraphs

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
GIB = 1 << 30


class XlaRunner:
    """One model on the devices of one runtime; implements ``pagoda.platform.ModelRunner``."""

    def __init__(self, config: RunnerConfig, info: ModelInfo, family: XlaFamily):
        _refuse(config, info)
        self.config, self.info, self.family = config, info, family
        self.runtime = family.runtime
        self.block_size = config.block_size or family.default_block_size
        self.buckets = Buckets(family.rule, config, self.block_size)
        self.dtype = DTYPES[config.dtype]
        self.checks = StepChecks(config)
        self._layers: list[Attention] = []
        self._weight_bytes = 0
        self._num_blocks = 0
        self._graphs: StepGraphs | None = None
        self._sampler: SamplerGraphs | None = None

    # -- before the first step ------------------------------------------------------------------

    def load(self) -> None:
        config = self.config
        context = ModelContext(
            info=self.info,
            max_model_len=config.max_model_len,
            dtype=self.dtype,
            device=torch.device("cpu"),  # from there to the devices when it is whole
            trust_remote_code=config.trust_remote_code,
        )
        with torch.no_grad():
            model = model_class(self.info)(context)
            weights = model.weights().values()
            self._weight_bytes = sum(x.numel() * x.element_size() for x in weights)
            free, _ = self.runtime.memory()
            share = self._weight_bytes // self.runtime.num_devices
            if share > free:
                raise OutOfMemory(
                    f"the weights take {share / GIB:.2f} GiB a device in {config.dtype},"
                    f" {free / GIB:.2f} GiB are free",
                    "a smaller model or dtype, or a larger --tensor-parallel-size",
                )
            load_weights(
                model, self.info.path, config.load_format, config.seed, config.show_progress
            )
            self._choose_kernels(context.attention_layers)
            Placer(self.runtime).place(model)
            last_tokens = self.runtime.filled((config.max_requests + 1,), torch.int32, 0)
        self._layers = context.attention_layers
        self._sampler = SamplerGraphs(self.runtime, model, last_tokens, self.info.vocab_size)
        self._graphs = StepGraphs(
            *(self.runtime, model, self._layers, last_tokens),
            *(self.block_size, config.max_tokens),
        )

    def _choose_kernels(self, layers: list[Attention]) -> None:
        backends = [XlaAttention(kernel) for kernel in self.family.kernels]
        for layer in layers:
            reasons = []
            for backend in backends:
                kernel = backend.kernel
                told = [
                    kernel.refuses(layer.spec, shape, self.block_size)
                    for shape in self.buckets.shapes
                ]
                reason = next((reason for reason in told if reason), None)
                if reason is None:
                    layer.backend = backend
                    break
                reasons.append(f"{backend.name}: {reason}")
            else:
                raise UnsupportedFeature(f"no attention for {layer.spec} ({'; '.join(reasons)})")

    def kv_cache_spec(self) -> KVCacheSpec:
        element = self.dtype.itemsize
        each = 0
        for layer in self._layers:
            shape = layer.backend.cache_shape(1, self.block_size, layer.spec)
            each += int(np.prod(shape)) * element
        return KVCacheSpec((KVGroup(self.block_size, each // self._cache_parts()),))

    def _cache_parts(self) -> int:
        """Devices that a block is cut among: all, where the key heads divide."""
        parts = self.runtime.num_devices
        return 1 if any(layer.spec.num_kv_heads % parts for layer in self._layers) else parts

    def free_kv_bytes(self) -> int:
        if self.config.kv_cache_bytes is not None:
            return self.config.kv_cache_bytes
        free, total = self.runtime.memory()
        kept = (1 - self.config.memory_fraction) * total
        found = max(0, int(free - kept) - self._work_bytes())
        most = self.family.most_cache_bytes
        return found if most is None else min(found, most)

    def _work_bytes(self) -> int:
        """Of the largest step: sampling holds a few copies of its logits, a layer its widest
        products."""
        rows, config = self.buckets.rows[-1], self.info.config
        wide: int = int(config.get("intermediate_size") or 0)  # type: ignore[call-overload]
        wide += self.info.num_heads * self.info.head_dim
        elements: int = 6 * (rows * self.info.vocab_size + self.config.max_tokens * wide)
        return 4 * elements

    def init_kv_cache(self, num_blocks: int) -> None:
        needed = (num_blocks + 1) * self.kv_cache_spec().groups[0].block_bytes
        free, _ = self.runtime.memory()
        if needed > free:
            raise OutOfMemory(
                f"{num_blocks} blocks of KV cache take {needed / GIB:.2f} GiB a device,"
                f" {free / GIB:.2f} GiB are free",
                "fewer --num-blocks or a smaller --max-model-len",
            )
        for layer in self._layers:  # and the null block
            shape = layer.backend.cache_shape(num_blocks + 1, self.block_size, layer.spec)
            axis = 1 if self._cache_parts() > 1 else None
            layer.cache = self.runtime.filled(shape, self.dtype, 0.0, axis)
        self._num_blocks = num_blocks

    def warm_up(self) -> None:
        """Compile every graph of every bucket, with a progress bar."""
        from tqdm import tqdm

        graphs, sampler = self._ready()
        shapes, rows = self.buckets.shapes, self.buckets.rows
        total = len(shapes) + 1 + 8 * len(rows)
        # None: only where a terminal shows it.
        silent = None if self.config.show_progress else True
        with tqdm(total=total, unit="graph", desc="Compiling", disable=silent) as bar:
            for told in graphs.warm_up(shapes):
                bar.set_postfix_str(told)
                bar.update()
            hidden = graphs.forward(padding(shapes[0], self.config.max_requests), shapes[0])
            for count in rows:
                for told in sampler.warm_up(hidden, count):
                    bar.set_postfix_str(f"{told} of {count} rows")
                    bar.update()
        self.runtime.download({"tokens": sampler.last_tokens})  # failures show here

    # -- steps ----------------------------------------------------------------------------------

    def submit(self, batch: ScheduledBatch) -> StepHandle:
        graphs, sampler = self._ready()
        if not self._num_blocks:
            raise PagodaError("submit() before init_kv_cache()")
        self.checks.check(batch)
        if batch.block_copies is not None:
            graphs.copy_blocks(batch.block_copies)
        widest = -(-int(batch.seq_lens.max(initial=1)) // self.block_size)
        shape = self.buckets.choose(len(batch.token_ids), len(batch.slots), widest)
        packed = pack_step(batch, shape, self.block_size, self.config.max_requests)
        hidden = graphs.forward(packed, shape)
        found = self._sample(sampler, hidden, batch)
        return XlaStep(self.runtime, batch, self.info.vocab_size, *found)

    def _sample(
        self, sampler: SamplerGraphs, hidden: Tensor, batch: ScheduledBatch
    ) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
        """What the step brings back: by sampled row, and in pieces by scored token."""
        scored = [] if batch.score is None else self._score(sampler, hidden, batch.score)
        if not len(batch.sample_rows):
            return {}, scored
        rows, sampling = self.buckets.rows_for(len(batch.sample_rows)), batch.sampling
        index, slots = batch.logit_index.astype(np.int32), batch.slots[batch.sample_rows]
        if sampling.plain_greedy and not batch.want_logits:
            return {"tokens": sampler.likeliest(hidden, index, slots, rows)}, scored
        picks = sampler.picks(index, slots, rows)
        logits = sampler.logits(hidden, picks, rows)
        found = {"tokens": sampler.pick(logits, picks, sampling, rows)}
        most = int(sampling.num_logprobs.max())
        if batch.want_logits or most > MOST_ALTERNATIVES:
            found["logits"] = logits
        if 0 <= most <= MOST_ALTERNATIVES:
            found |= _named(sampler.logprobs(logits, found["tokens"], rows))
        return found, scored

    def _score(
        self, sampler: SamplerGraphs, hidden: Tensor, score: ScoreBatch
    ) -> list[dict[str, Tensor]]:
        """Prompt tokens in pieces of the largest number of rows."""
        rows, found = self.buckets.rows[-1], []
        for start in range(0, len(score.token_rows), rows):
            index = score.token_rows[start : start + rows]
            logits = sampler.logits(hidden, sampler.picks(index, None, rows), rows)
            if score.num_logprobs > MOST_ALTERNATIVES:
                found.append({"logits": logits})
                continue
            targets = np.zeros(rows, np.int32)
            targets[: len(index)] = score.targets[start : start + rows]
            wanted = self.runtime.upload(targets)
            found.append(_named(sampler.logprobs(logits, wanted, rows)))
        return found

    def _ready(self) -> tuple[StepGraphs, SamplerGraphs]:
        if self._graphs is None or self._sampler is None:
            raise PagodaError("the runner is used before load()")
        return self._graphs, self._sampler

    def poison_cache(self) -> None:
        """NaN wherever nobody has written; the kit's."""
        for layer in self._layers:
            shape, axis = layer.cache.shape, 1 if self._cache_parts() > 1 else None
            layer.cache = self.runtime.filled(shape, self.dtype, float("nan"), axis)

    @property
    def num_compiles(self) -> int:
        return self.runtime.num_compiles()

    def close(self) -> None:
        self._graphs = self._sampler = None
        for layer in self._layers:
            layer.__dict__.pop("cache", None)
        self._layers = []


@dataclass(frozen=True)
class XlaStep:
    """A step under way; its arrays come when asked for."""

    runtime: Runtime
    batch: ScheduledBatch
    vocab_size: int
    sampled: Mapping[str, Tensor]
    scored: list[dict[str, Tensor]]

    def result(self) -> StepResult:
        num, sampling = len(self.batch.sample_rows), self.batch.sampling
        arrays = {name: x[:num] for name, x in self.runtime.download(self.sampled).items()}
        tokens = arrays.get("tokens", np.zeros(0, np.int32))
        return StepResult(
            token_ids=tokens,
            logprobs=self._logprobs(arrays, tokens, int(sampling.num_logprobs.max(initial=-1))),
            score=self._score(),
            logits=self._wanted_logits(arrays),
        )

    def _wanted_logits(self, arrays: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[Any] | None:
        if not self.batch.want_logits:
            return None
        return arrays.get("logits", np.zeros((0, self.vocab_size), np.float32))

    def _logprobs(
        self, arrays: Mapping[str, npt.NDArray[Any]], targets: npt.NDArray[Any], count: int
    ) -> Logprobs | None:
        if count < 0:
            return None
        if count > MOST_ALTERNATIVES:
            return logprobs_of(arrays["logits"], targets, count)
        return Logprobs(
            arrays["ids"][:, : count + 1], arrays["logprobs"][:, : count + 1], arrays["ranks"]
        )

    def _score(self) -> Logprobs | None:
        score = self.batch.score
        if score is None:
            return None
        parts = [self.runtime.download(part) for part in self.scored]
        num = len(score.targets)
        arrays = {name: np.concatenate([p[name] for p in parts])[:num] for name in parts[0]}
        return self._logprobs(arrays, score.targets, score.num_logprobs)


def _named(logprobs: DeviceLogprobs) -> dict[str, Tensor]:
    return {"ids": logprobs.token_ids, "logprobs": logprobs.logprobs, "ranks": logprobs.ranks}


def _refuse(config: RunnerConfig, info: ModelInfo) -> None:
    """What would be computed wrongly, or not at all."""
    if config.dtype not in DTYPES:
        raise UnsupportedFeature(f"dtype {config.dtype!r}", f"one of {', '.join(DTYPES)}")
    for name, value, known in (
        ("kv_cache_dtype", config.kv_cache_dtype, ("auto", config.dtype)),
        ("quantization", config.quantization, (None,)),
    ):
        if value not in known:
            raise UnsupportedFeature(f"XLA platforms have no {name} {value!r} yet")
    if info.architecture not in NATIVE:
        raise UnsupportedFeature(
            f"architecture {info.architecture!r} cannot be traced on XLA platforms",
            f"one of {', '.join(NATIVE)}, or another --device",
        )
