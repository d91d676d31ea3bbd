"""The graph: the reference's numbers, the operations that OpenVINO should have recognised, weights
that stay where they are."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pagoda.platform import BadCheckpoint, ModelInfo

pytest.importorskip("openvino", reason="OpenVINO is not installed")
pytest.importorskip("pagoda_openvino", reason="pagoda-openvino is not installed")

LLAMA3 = {
    **{"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 64},
    **{"low_freq_factor": 1.0, "high_freq_factor": 4.0},
}
SWITCHES: dict[str, dict[str, Any]] = {
    "plain": {},
    "tied": {"tie_word_embeddings": True, "num_key_value_heads": 4},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "llama3": {"rope_scaling": LLAMA3, "rope_theta": 5e5},
    "linear": {"rope_scaling": {"type": "linear", "factor": 2.5}, "stored": "float16"},
    "window": {"architecture": "MistralForCausalLM", "sliding_window": 7, "stored": "bfloat16"},
    "wide heads": {"architecture": "MistralForCausalLM", "head_dim": 48},
    "qwen2": {
        **{"architecture": "Qwen2ForCausalLM", "use_sliding_window": True, "sliding_window": 9},
        "max_window_layers": 1,
    },
    "qwen3": {"architecture": "Qwen3ForCausalLM", "head_dim": 32, "attention_bias": True},
}


@pytest.mark.parametrize("name", SWITCHES)
def test_the_numbers_of_the_reference(
    make_model: Callable[..., ModelInfo],
    open_runner: Callable[..., Any],
    prompts: Callable[..., Any],
    name: str,
) -> None:
    model = make_model(**SWITCHES[name])
    batch = prompts(70, 1, 33, 8)
    found, expected = (
        open_runner(model, platform, block_size=32).submit(batch).result().logits
        for platform in ("openvino", "reference")
    )
    assert expected.std() > 0.1
    assert np.abs(found - expected).max() < 1e-4


def recognised(runner: Any) -> Counter[str]:
    """How often each kind of operation is in the compiled graph."""
    nodes = runner.compiled.get_runtime_model().get_ops()
    return Counter(str(node.get_rt_info()["layerType"].value) for node in nodes)


@pytest.mark.parametrize("name", ["plain", "window", "qwen2", "qwen3"])
def test_operations_are_fused(
    make_model: Callable[..., ModelInfo], open_runner: Callable[..., Any], name: str
) -> None:
    """Speed, and in bfloat16 the accuracy of angles, depend on these."""
    found = recognised(open_runner(make_model(**SWITCHES[name])))
    layers, norms = 2, 4 if name == "qwen3" else 2
    assert found["PagedAttention"] == layers
    assert found["RoPE"] == 2 * layers
    assert found["RMS"] == norms * layers + 1
    assert found["FullyConnected"] == 5 * layers + 1  # queries, keys and values are one


@pytest.mark.parametrize("stored", ["float32", "bfloat16", "float16"])
def test_weights_are_not_copied(make_model: Callable[..., ModelInfo], stored: str) -> None:
    from pagoda.platform import RunnerConfig
    from pagoda_openvino.weights import Checkpoint, Weights

    source = Checkpoint(make_model(stored=stored), RunnerConfig("float32"), tied=False)
    weights = Weights(source)
    node = weights.matrix("lm_head.weight", (131, 64))
    (held,) = weights.held
    assert not held.flags.owndata and not held.flags.writeable
    constant = node if stored == "float32" else node.input_value(0).get_node()
    assert constant.data.ctypes.data == held.ctypes.data
    before = held.copy()
    weights.hand_back_pages()
    assert np.array_equal(held, before)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_random_weights_are_those_of_their_seed(dtype: str) -> None:
    from pagoda.platform import RunnerConfig
    from pagoda_openvino.weights import RandomWeights, as_float32

    def draw(seed: int) -> list[Any]:
        source = RandomWeights(RunnerConfig(dtype, seed=seed))
        return [as_float32(source.take(f"{name}.weight", (300, 400))) for name in "ab"]

    first, again, other = draw(1), draw(1), draw(2)
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert not np.array_equal(*first) and abs(first[0].std() * 400**0.5 - 1) < 0.01


def test_a_tensor_of_integers_is_refused(make_model: Callable[..., ModelInfo]) -> None:
    from pagoda.models.weights import RawTensor
    from pagoda.platform import RunnerConfig
    from pagoda_openvino.weights import Checkpoint

    source = Checkpoint(make_model(), RunnerConfig("float32"), tied=False)
    source.tensors["a.weight"] = RawTensor("a.weight", "I8", (2, 2), memoryview(b"abcd"))
    with pytest.raises(BadCheckpoint, match=r"a\.weight is stored as I8"):
        source.take("a.weight", (2, 2))


@pytest.mark.parametrize(("vocab_size", "grouped"), [(131, False), (256, True), (96, True)])
def test_greedy_tokens(
    make_model: Callable[..., ModelInfo],
    open_runner: Callable[..., Any],
    prompts: Callable[..., Any],
    vocab_size: int,
    grouped: bool,
) -> None:
    """Found in the graph where the vocabulary divides into groups, else on the host."""
    runner = open_runner(make_model(vocab_size=vocab_size))
    batch = prompts(70, 1, 33, 8)
    batch.token_ids[:] %= vocab_size
    logits = runner.submit(batch).result().logits
    found = runner.submit(dataclasses.replace(batch, want_logits=False)).result()
    assert np.array_equal(found.token_ids, logits.argmax(axis=1))
    assert runner.compiled.outputs[-1].get_any_name() == ("largest" if grouped else "logits")


def test_the_first_of_equal_logits() -> None:
    from pagoda_openvino.greedy import pick

    logits = np.random.default_rng(3).integers(0, 4, (50, 96)).astype(np.float32)
    largest = logits.reshape(50, 3, 32).max(axis=2)
    assert np.array_equal(pick(logits, largest), logits.argmax(axis=1))
