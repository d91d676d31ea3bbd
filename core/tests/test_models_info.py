"""config.json in the spellings of many families, and generation_config.json."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pagoda.models.generation import eos_token_ids, generation_defaults
from pagoda.models.info import read_model_info, rope_parameters
from pagoda.models.shape import read_shape
from pagoda.platform.errors import BadCheckpoint, UnsupportedFeature

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "hidden_size": 64,
    "vocab_size": 97,
    "max_position_embeddings": 128,
    "torch_dtype": "bfloat16",
}
GPT2 = {
    "architectures": ["GPT2LMHeadModel"],
    **{"n_layer": 2, "n_head": 4, "n_embd": 64, "vocab_size": 97, "n_positions": 128},
}
FALCON = {
    "architectures": ["FalconForCausalLM"],
    **{"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64, "vocab_size": 97},
    **{"max_position_embeddings": 128, "num_kv_heads": 2},
}
MPT = {
    "architectures": ["MPTForCausalLM"],
    **{"n_layers": 2, "n_heads": 4, "d_model": 64, "vocab_size": 97, "max_seq_len": 128},
}


def info(folder, config):
    (folder / "config.json").write_text(json.dumps(config))
    return read_model_info(folder)


@pytest.mark.parametrize(
    ("config", "kv_heads"),
    [
        (LLAMA, 4),
        ({**LLAMA, "num_key_value_heads": None}, 4),
        ({**LLAMA, "num_key_value_heads": 2}, 2),
        ({**LLAMA, "sliding_window": 32, "head_dim": None}, 4),
        (GPT2, 4),
        ({**GPT2, "architectures": ["GPTBigCodeForCausalLM"], "multi_query": True}, 1),
        ({**GPT2, "architectures": ["GPTBigCodeForCausalLM"], "multi_query": False}, 4),
        ({**FALCON, "multi_query": True, "new_decoder_architecture": False}, 1),
        ({**FALCON, "multi_query": True, "new_decoder_architecture": True}, 2),
        ({**FALCON, "multi_query": False}, 4),
        ({**MPT, "attn_config": {"kv_n_heads": 2}}, 2),
        (MPT, 4),
    ],
)
def test_spellings(tmp_path, config, kv_heads):
    found = info(tmp_path, config)
    assert (found.num_layers, found.num_heads, found.num_kv_heads) == (2, 4, kv_heads)
    assert (found.head_dim, found.vocab_size, found.max_len) == (16, 97, 128)
    assert found.architecture == config["architectures"][0]
    assert found.path == str(tmp_path) and found.config["architectures"]


def test_explicit_head_dim_wins(tmp_path):
    assert info(tmp_path, {**LLAMA, "head_dim": 32}).head_dim == 32
    assert info(tmp_path, {**LLAMA, "head_dim": 32, "model_type": "qwen3"}).head_dim == 32
    assert info(tmp_path, {**LLAMA, "model_type": "qwen3"}).head_dim == 128


def test_text_config_is_the_config(tmp_path):
    inner = {key: value for key, value in LLAMA.items() if key != "architectures"}
    outer = {
        "architectures": ["Gemma3ForConditionalGeneration"],
        **{"text_config": inner, "tie_word_embeddings": True, "vision_config": {"hidden_size": 9}},
    }
    found = info(tmp_path, outer)
    assert found.config["hidden_size"] == 64 and found.config["tie_word_embeddings"] is True
    assert found.dtype == "bfloat16"


@pytest.mark.parametrize(
    ("said", "dtype"),
    [
        ({"torch_dtype": "torch.float16"}, "float16"),
        ({"dtype": "float32"}, "float32"),
        ({"torch_dtype": None, "dtype": "bfloat16"}, "bfloat16"),
    ],
)
def test_dtype_spellings(tmp_path, said, dtype):
    assert info(tmp_path, {**LLAMA, "torch_dtype": None, **said}).dtype == dtype


def test_dtype_from_the_weights_when_config_is_silent(tmp_path, write_safetensors):
    assert info(tmp_path, GPT2).dtype == "float32"
    tensors = {"big": np.zeros(9, np.uint16), "small": np.zeros(2, np.float32)}
    write_safetensors(tmp_path / "model.safetensors", tensors)
    assert info(tmp_path, GPT2).dtype == "bfloat16"


@pytest.mark.parametrize(
    ("rope", "max_len"),
    [
        ({"rope_type": "llama3", "factor": 8.0}, 128),
        ({"type": "linear", "factor": 4.0}, 512),
        ({"rope_type": "dynamic", "factor": 2}, 256),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}, 512),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}, 128),
        ({"rope_type": "longrope", "long_factor": [1.0]}, 128),
    ],
)
def test_max_len_counts_rope_scaling(tmp_path, rope, max_len):
    assert info(tmp_path, {**LLAMA, "rope_scaling": rope}).max_len == max_len
    assert info(tmp_path, {**LLAMA, "rope_parameters": rope}).max_len == max_len


def test_rope_parameters_in_both_spellings():
    old = {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}}
    new = {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}}
    assert rope_parameters(old) == rope_parameters(new) == new["rope_parameters"]
    assert rope_parameters({}) == {"rope_type": "default", "rope_theta": 10000.0}
    layered = {"full_attention": {"rope_type": "default"}, "sliding_attention": {}}
    assert rope_parameters({"rope_parameters": layered}) == layered


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"architectures": None}, "architectures"),
        ({"architectures": []}, "architectures"),
        ({"architectures": "LlamaForCausalLM"}, "architectures"),
        ({"architectures": ["BertForMaskedLM"]}, "BertForMaskedLM"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "does not generate text"),
        (
            {"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True},
            "encoder-decoder",
        ),
        ({"num_hidden_layers": None}, "num_hidden_layers"),
        ({"num_attention_heads": None}, "num_attention_heads"),
        ({"num_attention_heads": [4, 8]}, "num_attention_heads"),
        ({"num_attention_heads": True}, "num_attention_heads"),
        ({"num_attention_heads": -4}, "num_attention_heads"),
        ({"hidden_size": None}, "hidden_size"),
        ({"hidden_size": 66}, "66"),
        ({"vocab_size": "many"}, "vocab_size"),
        ({"max_position_embeddings": None}, "max_position_embeddings"),
        ({"max_position_embeddings": 2.5}, "max_position_embeddings"),
        ({"num_key_value_heads": 3}, "3 key/value heads"),
        ({"rope_scaling": "linear"}, "rope"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, change, says):
    with pytest.raises(BadCheckpoint, match=says):
        info(tmp_path, {**LLAMA, **change})


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"a": 1, "a": 2}', "[" * 100_000])
def test_malformed_json(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(BadCheckpoint, match=r"config\.json"):
        read_model_info(tmp_path)


def test_config_json_as_a_folder(tmp_path):
    (tmp_path / "config.json").mkdir()
    with pytest.raises(BadCheckpoint, match=r"config\.json cannot be read"):
        read_model_info(tmp_path)


def test_generation_config(tmp_path):
    assert generation_defaults(tmp_path) == {}
    assert eos_token_ids(tmp_path, {"eos_token_id": 5}) == (5,)
    assert eos_token_ids(tmp_path, {}) == ()
    (tmp_path / "generation_config.json").write_text(
        json.dumps(
            {
                **{"temperature": 0.7, "top_k": 20, "top_p": 0.8, "min_p": None, "do_sample": True},
                **{"repetition_penalty": 1.05, "max_new_tokens": 99, "eos_token_id": [7, 8, 7]},
            }
        )
    )
    assert generation_defaults(tmp_path) == {
        **{"temperature": 0.7, "top_k": 20, "top_p": 0.8},
        **{"repetition_penalty": 1.05, "max_tokens": 99},
    }
    assert eos_token_ids(tmp_path, {"eos_token_id": 5}) == (7, 8)


@pytest.mark.parametrize("text", ['{"temperature": "hot"}', '{"top_k": true}', "[]", "{"])
def test_malformed_generation_config(tmp_path, text):
    (tmp_path / "generation_config.json").write_text(text)
    with pytest.raises(BadCheckpoint, match=r"generation_config\.json"):
        generation_defaults(tmp_path)


def test_malformed_eos(tmp_path):
    with pytest.raises(BadCheckpoint, match=r"config\.json: eos_token_id"):
        eos_token_ids(tmp_path, {"eos_token_id": "</s>"})


def test_quantized_weights_are_not_taken_for_plain_ones(tmp_path):
    stored = {"quantization_config": {"quant_method": "awq", "bits": 4}}
    whole = {**LLAMA, "intermediate_size": 96, **stored}
    outer = {"architectures": LLAMA["architectures"], "text_config": LLAMA, **stored}
    for config in (whole, outer):
        with pytest.raises(UnsupportedFeature, match="quant_method 'awq'"):
            read_shape(info(tmp_path, config), "reference")
    read_shape(info(tmp_path, {**whole, "quantization_config": None}), "reference")
