"""Small random models in real folders: config.json, safetensors, tokenizer.json.

Weights are such that attention decides the outcome (so that a wrong mask cannot hide) and are
exact in bfloat16 and float16 alike (so that a dtype's error is that of computing in it)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pagoda.platform.batch import Float32

VOCAB = 488  # no multiple of 32: the last word of a token mask is not full
MAX_LEN = 256
EOS = 2

_SIZES: Mapping[str, object] = {
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": VOCAB,
    "max_position_embeddings": MAX_LEN,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "bos_token_id": 1,
    "eos_token_id": EOS,
}


@dataclass(frozen=True)
class Family:
    """A kind of model and what it brings besides plain attention."""

    architecture: str
    stored: str  # dtype of the safetensors
    config: Mapping[str, object]


FAMILIES: Mapping[str, Family] = {
    "llama": Family(  # two query heads a key head
        "LlamaForCausalLM", "float32", {"model_type": "llama", "tie_word_embeddings": False}
    ),
    "mistral": Family(  # a window that no block size divides, four query heads a key head
        "MistralForCausalLM",
        "bfloat16",
        {"model_type": "mistral", "sliding_window": 21, "num_key_value_heads": 1},
    ),
    "qwen3": Family(  # norms on queries and keys, tied embeddings, a key head each, three layers
        "Qwen3ForCausalLM",
        "float16",
        {
            "model_type": "qwen3",
            "tie_word_embeddings": True,
            "num_key_value_heads": 4,
            "num_hidden_layers": 3,
        },
    ),
}


@dataclass(frozen=True)
class TinyModel:
    """A folder with a model in it."""

    name: str
    folder: Path
    vocab_size: int = VOCAB
    max_len: int = MAX_LEN


def write_model(name: str, folder: Path, rng: np.random.Generator) -> TinyModel:
    """Write the family ``name`` into ``folder``, with fresh weights."""
    family = FAMILIES[name]
    own: dict[str, object] = {"architectures": [family.architecture], "torch_dtype": family.stored}
    config = {**own, **_SIZES, **family.config}
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    write_safetensors(folder / "model.safetensors", _weights(config, rng), family.stored)
    (folder / "tokenizer.json").write_text(json.dumps(_tokenizer()))
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(special))
    return TinyModel(name, folder)


def write_safetensors(file: Path, tensors: Mapping[str, Float32], dtype: str) -> None:
    """Write float32 arrays as float32, float16 or bfloat16."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    parts, position = [], 0
    word = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[dtype]
    for name, tensor in tensors.items():
        raw = _bytes(tensor, dtype)
        offsets = [position, position + len(raw)]
        header[name] = {"dtype": word, "shape": list(tensor.shape), "data_offsets": offsets}
        parts.append(raw)
        position += len(raw)
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(parts))


def _bytes(tensor: Float32, dtype: str) -> bytes:
    if dtype == "bfloat16":
        return (tensor.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    return tensor.astype("<f4" if dtype == "float32" else "<f2").tobytes()


def _weights(config: Mapping[str, object], rng: np.random.Generator) -> dict[str, Float32]:
    size = {key: value for key, value in config.items() if isinstance(value, int)}
    hidden, dim, inner = size["hidden_size"], size["head_dim"], size["intermediate_size"]
    width, kv_width = size["num_attention_heads"] * dim, size["num_key_value_heads"] * dim
    qk_norm = config["architectures"] == ["Qwen3ForCausalLM"]

    def matrix(rows: int, columns: int, gain: float) -> Float32:
        return _exact(rng.standard_normal((rows, columns), np.float32) * gain / columns**0.5)

    def norm(length: int, mean: float = 1.0) -> Float32:
        return _exact(mean * rng.uniform(0.8, 1.2, length).astype(np.float32))

    tied = bool(config.get("tie_word_embeddings"))
    # A tied embedding is the output matrix too: its gain makes the logits' deviation 2.
    table = {
        "model.embed_tokens.weight": matrix(size["vocab_size"], hidden, 2 if tied else hidden**0.5)
    }
    # Scores of deviation 1.7: neither a plain average nor a single winner.
    sharp = 1.0 if qk_norm else 1.3
    for layer in range(size["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        table |= {
            f"{prefix}input_layernorm.weight": norm(hidden),
            f"{prefix}self_attn.q_proj.weight": matrix(width, hidden, sharp),
            f"{prefix}self_attn.k_proj.weight": matrix(kv_width, hidden, sharp),
            f"{prefix}self_attn.v_proj.weight": matrix(kv_width, hidden, 1.3),
            f"{prefix}self_attn.o_proj.weight": matrix(hidden, width, 1.3),
            f"{prefix}post_attention_layernorm.weight": norm(hidden),
            f"{prefix}mlp.gate_proj.weight": matrix(inner, hidden, 1.0),
            f"{prefix}mlp.up_proj.weight": matrix(inner, hidden, 1.0),
            f"{prefix}mlp.down_proj.weight": matrix(hidden, inner, 1.0),
        }
        if qk_norm:
            table[f"{prefix}self_attn.q_norm.weight"] = norm(dim, 1.3)
            table[f"{prefix}self_attn.k_norm.weight"] = norm(dim, 1.3)
    table["model.norm.weight"] = norm(hidden)
    if not tied:
        table["lm_head.weight"] = matrix(size["vocab_size"], hidden, 2)
    return table


def _exact(values: Float32) -> Float32:
    """Rounded to 8 significant bits and to nothing below 2**-14: exact in every 16-bit dtype."""
    fraction, exponent = np.frexp(values)
    rounded: Float32 = np.ldexp(np.round(fraction * 256) / 256, exponent).astype(np.float32)
    rounded[np.abs(rounded) < 2.0**-14] = 0
    return rounded


def _tokenizer() -> dict[str, object]:
    """Byte-level BPE without merges: special tokens, the 256 bytes, then words never produced."""
    words = ["<unk>", "<s>", "</s>", *_byte_characters()]
    words += [f"<extra_{i}>" for i in range(VOCAB - len(words))]
    special = [
        {
            "id": i, "content": words[i], "special": True, "single_word": False,
            "lstrip": False, "rstrip": False, "normalized": False,
        }
        for i in range(3)
    ]  # fmt: skip
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": True,
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {word: i for i, word in enumerate(words)},
            "merges": [],
        },
    }


def _byte_characters() -> list[str]:
    """The printable character that byte-level BPE writes for each byte 0 .. 255."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]
