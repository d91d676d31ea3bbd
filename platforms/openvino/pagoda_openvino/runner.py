"""The ModelRunner: one scheduled step is one inference of the compiled graph; of many tokens, where
that is quicker, a few."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import openvino as ov

from pagoda.platform import (
    Done,
    KVCacheSpec,
    KVGroup,
    ModelInfo,
    ModelRunner,
    PagodaError,
    RunnerConfig,
    ScheduledBatch,
    StepHandle,
    StepResult,
    UnsupportedFeature,
)
from pagoda.platform.batch import Float32
from pagoda.sampling.reference import logprobs_of, sample
from pagoda_openvino import machine
from pagoda_openvino.blocking import NO_LIMIT
from pagoda_openvino.cache import CacheLayout, PagedCache, read_layout
from pagoda_openvino.compiling import compile_graph, properties
from pagoda_openvino.greedy import add_largest, pick
from pagoda_openvino.large_pages import LargePages
from pagoda_openvino.model_graph import ModelGraph, choose_graph
from pagoda_openvino.packing import first_inferences, handing_back_pages
from pagoda_openvino.step import Array, Index, Inputs, check_batch, inferences, logit_rows

MOST_CACHE_BYTES = 4 << 30  # a user's own number has no limit


class OpenVINORunner:
    """Finishes every step inside ``submit``."""

    def __init__(self, config: RunnerConfig, model: ModelInfo, device: str):
        self.config = config
        self.model = model
        self.device = device
        self.properties = properties(config)
        self._graph: ModelGraph | None = choose_graph(model, config)
        self.compiled: ov.CompiledModel | None = None
        self.cache: PagedCache | None = None
        self._layout: CacheLayout | None = None
        self._request: ov.InferRequest | None = None
        self._inputs: dict[str, Array] = {}  # that the request reads, by the graph's names
        self._outputs: list[str] = []  # names
        self._most_tokens = NO_LIMIT
        self._pages = LargePages()

    def load(self) -> None:
        if self._graph is None:
            raise PagodaError("load() after close()")
        with handing_back_pages(self._graph):
            graph = self._graph.build()
            self._most_tokens = self._graph.most_tokens
            add_largest(graph, self.model.vocab_size)
            self._outputs = [output.get_any_name() for output in graph.outputs]
            self.compiled = compile_graph(graph, self.device, self.properties)
            self._layout = read_layout(self.compiled)
            self._request = self.compiled.create_infer_request()
            first_inferences(self._request, self._layout)
        size, asked = self._layout.block_size, self.config.block_size
        if asked not in (None, size):
            raise UnsupportedFeature(
                f"OpenVINO's {self.device} plugin has blocks of {size} tokens, not {asked}",
                f"--block-size {size}",
            )

    def kv_cache_spec(self) -> KVCacheSpec:
        layout = self._loaded()
        return KVCacheSpec((KVGroup(layout.block_size, layout.block_bytes),))

    def free_kv_bytes(self) -> int:
        if self.config.kv_cache_bytes is not None:
            return self.config.kv_cache_bytes
        total, free = machine.memory()
        kept = (1 - self.config.memory_fraction) * total
        return max(0, min(int(free - kept) - self._work_bytes(), MOST_CACHE_BYTES))

    def init_kv_cache(self, num_blocks: int) -> None:
        total, _ = machine.memory()
        self.cache = PagedCache(self._loaded(), num_blocks, total)
        if self._request is not None:
            self.cache.bind(self._request)

    def warm_up(self) -> None:
        """The graph is compiled for every shape of a step, and has run at load."""
        self._pages.start()

    def submit(self, batch: ScheduledBatch) -> StepHandle:
        cache, size = self.cache, self._loaded().block_size
        if cache is None:
            raise PagodaError("submit() before init_kv_cache()")
        check_batch(batch, self.config, self.model.vocab_size, cache.num_blocks, size)
        if batch.block_copies is not None:
            cache.copy_blocks(batch.block_copies)
        parts, num_sampled = inferences(batch, size, self._most_tokens), len(batch.sample_rows)
        if batch.sampling.plain_greedy and batch.score is None and not batch.want_logits:
            token_ids = np.empty(num_sampled, np.int32)
            for inputs, rows in parts:
                token_ids[rows] = pick(*self._run(inputs))
            return Done(StepResult(token_ids))
        logits = self._logits(parts, len(logit_rows(batch)))
        token_ids, logprobs = sample(logits[:num_sampled], batch.sampling)
        score = None
        if batch.score is not None:
            wanted = batch.score
            score = logprobs_of(logits[num_sampled:], wanted.targets, wanted.num_logprobs)
        kept = logits[:num_sampled].copy() if batch.want_logits else None
        return Done(StepResult(token_ids, logprobs=logprobs, score=score, logits=kept))

    def close(self) -> None:
        self._pages.stop()
        self._request = self.compiled = self.cache = self._layout = None
        self._inputs.clear()
        self._graph = None  # after what reads its weights

    def _logits(self, parts: Iterable[tuple[Inputs, Index]], num_rows: int) -> Float32:
        """[N, V], in memory that the next step may overwrite."""
        logits: Float32 = np.empty((0, self.model.vocab_size), np.float32)
        for inputs, rows in parts:
            found = self._run(inputs)[0]
            if len(rows) == num_rows:
                logits = found
            elif len(rows):
                if not len(logits):
                    logits = np.empty((num_rows, found.shape[1]), np.float32)
                logits[rows] = found
        return logits

    def _run(self, inputs: Inputs) -> list[Float32]:
        """One inference: [N, V] logits and, where the graph finds them, the largest of groups."""
        request = self._request
        if request is None:
            raise PagodaError("submit() before load()")
        for name, array in inputs.items():
            held = self._inputs.get(name)
            if held is not None and held.shape == array.shape:
                held[...] = array  # a fifth of what telling OpenVINO of another array takes
            else:
                held = self._inputs[name] = array.copy()
                request.set_tensor(name, ov.Tensor(held, shared_memory=True))
        request.infer(share_outputs=True)
        return [request.get_tensor(name).data for name in self._outputs]

    def _loaded(self) -> CacheLayout:
        if self._layout is None:
            raise PagodaError("the runner is used before load()")
        return self._layout

    def _work_bytes(self) -> int:
        """Of the largest step: logits of every token (prompt_logprobs), and what lies between
        layers."""
        model = self.model
        hidden = self._size("hidden_size", model.num_heads * model.head_dim)
        inner = self._size("intermediate_size", 4 * hidden)
        width = model.num_heads + 2 * model.num_kv_heads
        between = 4 * hidden + 3 * inner + 2 * width * model.head_dim
        return 4 * self.config.max_tokens * (2 * model.vocab_size + between)

    def _size(self, key: str, otherwise: int) -> int:
        found = self.model.config.get(key)
        return found if isinstance(found, int) else otherwise


def poison_cache(runner: ModelRunner) -> None:
    """For the kit: NaN everywhere, so that reading what nobody wrote cannot go unseen."""
    if not isinstance(runner, OpenVINORunner) or runner.cache is None:
        raise PagodaError(f"{runner!r} is no OpenVINO runner with a cache")
    runner.cache.poison()
