"""The NumPy runner on hand-built batches, against a dense forward of the whole sequence."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pagoda.platform import (
    PENDING,
    BlockTable,
    ModelInfo,
    PagodaError,
    RunnerConfig,
    SamplingBatch,
    ScheduledBatch,
    ScoreBatch,
    UnsupportedFeature,
)
from pagoda.reference.runner import ReferenceRunner

VOCAB, MAX_LEN, BLOCKS = 61, 96, 80


def model_info(architecture: str = "LlamaForCausalLM", **config: object) -> ModelInfo:
    config = {"hidden_size": 32, "intermediate_size": 48, **config}
    heads = {"num_heads": 4, "num_kv_heads": 2, "head_dim": 8}
    sizes = {"num_layers": 3, "vocab_size": VOCAB, **heads}
    return ModelInfo("nowhere", architecture, config, "float32", max_len=MAX_LEN, **sizes)


def make_runner(info: ModelInfo | None = None, block_size: int = 4, **config) -> ReferenceRunner:
    config = RunnerConfig(
        **{
            **{"dtype": "float32", "load_format": "dummy", "block_size": block_size, "seed": 3},
            **{"max_model_len": MAX_LEN, "max_tokens": 256, "max_requests": 8, **config},
        }
    )
    runner = ReferenceRunner(config, info or model_info())
    runner.load()
    runner.init_kv_cache(BLOCKS)
    return runner


def greedy(num_rows: int, num_logprobs: int = -1) -> SamplingBatch:
    floats = np.zeros(num_rows, np.float32)
    ints = np.zeros(num_rows, np.int32)
    return SamplingBatch(floats, ints, floats + 1, floats, floats, ints + num_logprobs)


class Feeder:
    """Requests with blocks scattered over the cache, run in any portions."""

    def __init__(self, runner: ReferenceRunner, seed: int = 0):
        print("seed", seed)
        self.runner = runner
        self.rng = np.random.default_rng(seed)
        self.size = runner.block_size
        self.free = self.rng.permutation(BLOCKS).tolist()
        self.blocks: dict[int, list[int]] = {}
        self.cached: dict[int, int] = {}

    def batch(self, parts: dict[int, list[int]], sample: bool = True, **more) -> ScheduledBatch:
        slots = list(parts)
        for slot, tokens in parts.items():
            blocks = self.blocks.setdefault(slot, [])
            needed = -(-(self.cached.get(slot, 0) + len(tokens)) // self.size)
            while len(blocks) < needed:
                blocks.append(self.free.pop())
        counts = [len(self.blocks[slot]) for slot in slots]
        ids = self.rng.integers(-9, 9, (len(slots), max(counts) + 2), np.int32)  # junk beyond
        for row, slot in enumerate(slots):
            ids[row, : counts[row]] = self.blocks[slot]
        lens = [len(tokens) for tokens in parts.values()]
        rows = np.arange(len(slots) if sample else 0, dtype=np.int32)
        made = ScheduledBatch(
            slots=np.array(slots, np.int32),
            admitted=np.array([slot not in self.cached for slot in slots]),
            query_start=np.cumsum([0, *lens], dtype=np.int32),
            token_ids=np.concatenate([*parts.values()]).astype(np.int32),
            context_lens=np.array([self.cached.get(slot, 0) for slot in slots], np.int32),
            block_tables=(BlockTable(ids, np.array(counts, np.int32)),),
            sample_rows=rows,
            **{"sampling": greedy(len(rows)), **more},
        )
        for slot, length in zip(slots, lens, strict=True):
            self.cached[slot] = self.cached.get(slot, 0) + length
        return made

    def run(self, parts: dict[int, list[int]], **more):
        return self.runner.submit(self.batch(parts, **more)).result()


def dense_logits(runner: ReferenceRunner, tokens: list[int]) -> np.ndarray:
    """[T, V] without a cache: every score written out with loops."""
    shape, llama = runner.shape, runner._llama
    group = shape.num_heads // shape.num_kv_heads

    def attend(layer, query, key, value):
        out = np.zeros_like(query)
        window = shape.windows[layer] or len(tokens)
        for i in range(len(tokens)):
            first = max(0, i - window + 1)
            for head in range(shape.num_heads):
                keys, values = (
                    key[first : i + 1, head // group],
                    value[first : i + 1, head // group],
                )
                scores = (keys @ query[i, head]).astype(np.float64) / np.sqrt(shape.head_dim)
                weights = np.exp(scores - scores.max())
                out[i, head] = weights / weights.sum() @ values
        return out

    positions = np.arange(len(tokens), dtype=np.int32)
    return llama.logits(llama.forward(np.array(tokens), positions, attend))


MODELS = {
    "llama": model_info(tie_word_embeddings=True),
    "llama3 rope, biases": model_info(
        attention_bias=True,
        mlp_bias=True,
        rope_scaling={
            **{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0},
            **{"high_freq_factor": 4.0, "original_max_position_embeddings": 32},
        },
    ),
    "linear rope": model_info(rope_scaling={"type": "linear", "factor": 4.0}),
    "mistral": model_info("MistralForCausalLM", sliding_window=5),
    "qwen2": model_info("Qwen2ForCausalLM", sliding_window=7, max_window_layers=1),
    "qwen2 windows": model_info(
        "Qwen2ForCausalLM", use_sliding_window=True, sliding_window=7, max_window_layers=1
    ),
    "qwen3": model_info("Qwen3ForCausalLM"),
}


@pytest.mark.parametrize("block_size", [1, 4, 16])
@pytest.mark.parametrize("name", MODELS)
def test_chunks_and_neighbours_change_nothing(name, block_size):
    runner = make_runner(MODELS[name], block_size)
    feeder = Feeder(runner, seed=block_size)
    lens = feeder.rng.integers(1, 30, 3).tolist() if block_size == 1 else [23, 9, 30]
    lens = [min(length, 25) for length in lens] if block_size == 1 else lens
    prompts = [feeder.rng.integers(0, VOCAB, length).tolist() for length in lens]
    left = {slot: list(prompt) for slot, prompt in enumerate(prompts)}
    while left:
        parts = {}
        for slot in feeder.rng.permutation(list(left)).tolist():
            size = int(feeder.rng.integers(1, 12))
            parts[slot], left[slot] = left[slot][:size], left[slot][size:]
        left = {slot: rest for slot, rest in left.items() if rest}
        result = feeder.run(parts, want_logits=True)
        assert result.token_ids.tolist() == result.logits.argmax(1).tolist()
        for row, slot in enumerate(parts):
            expected = dense_logits(runner, prompts[slot][: feeder.cached[slot]])[-1]
            np.testing.assert_allclose(result.logits[row], expected, atol=2e-5)


def test_windows_are_where_the_config_says():
    assert make_runner(MODELS["mistral"]).shape.windows == (5, 5, 5)
    assert make_runner(MODELS["qwen2"]).shape.windows == (None, None, None)
    assert make_runner(MODELS["qwen2 windows"]).shape.windows == (None, 7, 7)


def test_pending_is_the_token_sampled_before():
    runner, prompts = make_runner(), {5: [1, 2, 3], 2: [4] * 9}
    plain, ahead = Feeder(runner), Feeder(make_runner(), seed=1)
    expected, tokens = [], prompts
    for _ in range(6):
        tokens = {s: [t] for s, t in zip(tokens, plain.run(tokens).token_ids.tolist(), strict=True)}
        expected.append([tokens[5][0], tokens[2][0]])
    handles = [ahead.runner.submit(ahead.batch(prompts))]
    for step in range(5):
        order = {5: [PENDING], 2: [PENDING]} if step % 2 else {2: [PENDING], 5: [PENDING]}
        handles.append(ahead.runner.submit(ahead.batch(order)))
    found = [handle.result().token_ids.tolist() for handle in handles]
    assert [row if i % 2 == 0 else row[::-1] for i, row in enumerate(found)] == expected
    with pytest.raises(PagodaError, match="sampled nothing"):
        ahead.run({3: [PENDING]})
    del ahead.cached[5]  # the slot begins a new life: what the old one sampled is forgotten
    with pytest.raises(PagodaError, match="sampled nothing"):
        ahead.run({5: [PENDING]})


def test_scores_are_of_the_tokens_that_came():
    runner = make_runner()
    feeder = Feeder(runner)
    prompt = feeder.rng.integers(0, VOCAB, 10).tolist()
    score = ScoreBatch(np.arange(9, dtype=np.int32), np.array(prompt[1:], np.int32), 2)
    result = feeder.run({0: prompt}, score=score, sample=False)
    assert len(result.token_ids) == 0 and result.logprobs is None
    logits = dense_logits(runner, prompt)[:-1].astype(np.float64)
    expected = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    assert result.score.token_ids.shape == (9, 3)
    assert result.score.token_ids[:, 0].tolist() == prompt[1:]
    found = np.take_along_axis(expected, result.score.token_ids.astype(int), 1)
    np.testing.assert_allclose(result.score.logprobs, found, atol=1e-5)


def test_logprobs_come_with_samples_when_wanted():
    result = Feeder(make_runner()).run({0: [1, 2], 1: [3]}, sampling=greedy(2, 3))
    assert result.logprobs.token_ids.shape == (2, 4)
    assert (result.logprobs.ranks == 1).all() and result.score is None and result.logits is None


def test_blocks_are_copied_before_the_step_writes():
    runner = make_runner()
    feeder = Feeder(runner)
    feeder.run({0: [1, 2, 3, 4, 5, 6]})
    feeder.blocks[1] = [feeder.blocks[0][0], feeder.free.pop()]
    feeder.cached[1] = 6
    copies = np.array([[feeder.blocks[0][1], feeder.blocks[1][1]]], np.int32)
    result = feeder.run({0: [7], 1: [8]}, block_copies=copies, want_logits=True)
    for row, last in enumerate((7, 8)):
        expected = dense_logits(runner, [1, 2, 3, 4, 5, 6, last])[-1]
        np.testing.assert_allclose(result.logits[row], expected, atol=2e-5)


def test_what_nobody_wrote_is_nan():
    feeder = Feeder(make_runner())
    feeder.cached[0] = 3  # a context that was never run
    assert np.isnan(feeder.run({0: [1]}, want_logits=True).logits).all()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda b: {"token_ids": b.token_ids + VOCAB}, "token ids"),
        (lambda b: {"slots": np.array([0, 0], np.int32)}, "slots"),
        (lambda b: {"slots": np.array([0, 8], np.int32)}, "slots"),
        (lambda b: {"context_lens": b.context_lens + MAX_LEN}, "positions"),
        (lambda b: {"context_lens": b.context_lens + 30}, "fewer blocks"),
        (lambda b: {"query_start": np.array([0, 3, 3], np.int32)}, "query"),
        (lambda b: {"sample_rows": np.array([1, 0], np.int32)}, "sample_rows"),
        (lambda b: {"block_tables": ()}, "block tables"),
        (lambda b: {"token_ids": np.array([PENDING, 1, 1, 1], np.int32)}, "PENDING"),
    ],
)
def test_broken_batches_are_refused(change, says):
    batch = Feeder(make_runner()).batch({0: [1, 2, 3], 1: [4]})
    with pytest.raises(PagodaError, match=says):
        make_runner().submit(dataclasses.replace(batch, **change(batch)))


def test_steps_beyond_the_limits_are_refused():
    runner = make_runner(max_tokens=4, max_requests=2)
    with pytest.raises(PagodaError, match="5 tokens"):
        Feeder(runner).run({0: [1] * 5})
    with pytest.raises(PagodaError, match="3 requests"):
        Feeder(runner).run({0: [1], 1: [1], 2: [1]})


@pytest.mark.parametrize(
    ("info", "settings"),
    [
        (model_info("GPT2LMHeadModel"), {}),
        (model_info(hidden_act="gelu"), {}),
        (model_info(rope_scaling={"rope_type": "yarn", "factor": 2.0}), {}),
        (model_info(), {"dtype": "bfloat16"}),
        (model_info(), {"tensor_parallel_size": 2}),
        (model_info(), {"quantization": "int8"}),
    ],
)
def test_what_it_cannot_run_is_refused(info, settings):
    with pytest.raises(UnsupportedFeature):
        make_runner(info, **settings)


def test_cache_sizes_add_up():
    runner = make_runner(block_size=16)
    group = runner.kv_cache_spec().groups[0]
    assert group.block_bytes * BLOCKS == runner._cache.keys.nbytes + runner._cache.values.nbytes
    assert runner.free_kv_bytes() >= MAX_LEN // 16 * group.block_bytes
    assert make_runner(kv_cache_bytes=12345).free_kv_bytes() == 12345
