"""A model as its config.json describes it, whatever spelling its family uses; no weights.

Building the network and understanding the rest of the config is left to the platforms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pagoda.models.strict_json import read_object
from pagoda.models.weights import list_weights, which_files
from pagoda.platform.errors import BadCheckpoint, UnsupportedFeature
from pagoda.platform.types import ModelInfo

_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads")
_KV_HEADS = ("num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num")
_HIDDEN = ("hidden_size", "n_embd", "d_model", "n_embed")
_HEAD_DIM = ("head_dim", "kv_channels", "attention_head_dim")
_VOCAB = ("vocab_size", "padded_vocab_size")
_MAX_LEN = (
    *("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len"),
    *("seq_length", "n_ctx", "model_max_length"),
)
_OWN_HEAD_DIM = {  # of families whose heads do not divide the hidden size
    **{"gemma": 256, "gemma2": 256, "gemma3_text": 256, "qwen3": 128, "qwen3_moe": 128},
}
_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


def read_model_info(path: str | Path) -> ModelInfo:
    """Read config.json.  Raises BadCheckpoint, naming the key, when it does not describe a
    decoder-only text model."""
    file = Path(path) / "config.json"
    outer = read_object(file)
    config = _text_part(outer)
    architecture = _architecture(outer, file)
    if config.get("is_encoder_decoder"):
        raise BadCheckpoint(
            f"{architecture} is an encoder-decoder model", "a decoder-only text model"
        )
    heads = _number(config, _HEADS, file, architecture)
    return ModelInfo(
        path=str(path),
        architecture=architecture,
        config=config,
        dtype=_stored_dtype(config, Path(path)),
        num_layers=_number(config, _LAYERS, file, architecture),
        num_heads=heads,
        num_kv_heads=_kv_heads(config, heads, file, architecture),
        head_dim=_head_dim(config, heads, file, architecture),
        vocab_size=_number(config, _VOCAB, file, architecture),
        max_len=_max_len(config, file, architecture),
    )


def rope_parameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """The RoPE settings of a config, old spelling or new, as one dict with at least ``rope_type``
    and ``rope_theta``; a dict of such dicts by layer type comes back as it is."""
    found = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(found, Mapping):
        raise BadCheckpoint(f"config.json: rope settings are {found!r}, an object was expected")
    if found and all(isinstance(value, Mapping) for value in found.values()):
        return dict(found)
    rope = dict(found)
    rope["rope_type"] = rope.get("rope_type") or rope.pop("type", None) or "default"
    for key, default in (("rope_theta", 10000.0), ("partial_rotary_factor", None)):
        value = rope.get(key, config.get(key))
        rope[key] = default if value is None else value
    if rope["partial_rotary_factor"] is None:
        del rope["partial_rotary_factor"]
    return rope


def refuse_quantized(model: ModelInfo) -> None:
    """Raise UnsupportedFeature for a checkpoint of quantized weights, for platforms that would
    take its tensors for something else."""
    settings = model.config.get("quantization_config")
    if settings:
        method = settings.get("quant_method") if isinstance(settings, Mapping) else settings
        raise UnsupportedFeature(
            f"{model.path} holds quantized weights (config.json: quant_method {method!r}), which"
            " are not read here",
            "the unquantized checkpoint; --quantization rounds it at load where the platform can",
        )


def _text_part(outer: Mapping[str, Any]) -> dict[str, Any]:
    """The language model's own settings, with what the outer config alone says put in."""
    inner = outer.get("text_config") or outer.get("llm_config")
    if not isinstance(inner, Mapping):
        return dict(outer)
    shared = (
        *("torch_dtype", "dtype", "tie_word_embeddings", "eos_token_id", "bos_token_id"),
        "quantization_config",
    )
    return {**{key: outer[key] for key in shared if outer.get(key) is not None}, **inner}


def _architecture(outer: Mapping[str, Any], file: Path) -> str:
    names = outer.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise BadCheckpoint(
            f"{file}: architectures is missing", '"architectures": ["LlamaForCausalLM"] or the like'
        )
    name: str = names[0]
    multimodal = name.endswith("ForConditionalGeneration") and "text_config" in outer
    if not (multimodal or outer.get("is_encoder_decoder") or name.endswith(_TEXT_HEADS)):
        raise BadCheckpoint(
            f"{name} ({file}) does not generate text", "a model whose name ends in ForCausalLM"
        )
    return name


_TEXT_HEADS = ("ForCausalLM", "LMHeadModel")


def _number(config: Mapping[str, Any], names: tuple[str, ...], file: Path, who: str) -> int:
    value = _optional(config, names, file)
    if value is None:
        raise BadCheckpoint(
            f"{file}: {who} has no {names[0]}"
            f" (also looked for {', '.join(names[1:])}): it is incomplete, or no attention decoder"
        )
    return value


def _optional(config: Mapping[str, Any], names: tuple[str, ...], file: Path) -> int | None:
    """The first of these keys that is there, checked to be a positive whole number."""
    for name in names:
        value = config.get(name)
        if value is not None:
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise BadCheckpoint(
                    f"{file}: {name}={value!r}, a whole number above 0 was expected"
                )
            return value
    return None


def _kv_heads(config: Mapping[str, Any], heads: int, file: Path, who: str) -> int:
    inner = config.get("attn_config")
    if isinstance(inner, Mapping):
        found = _optional(inner, ("kv_n_heads",), file)
        if found is not None:
            return found
    old_falcon = "multi_query" in config and config.get("new_decoder_architecture") is not True
    if config.get("multi_query") is True and old_falcon:
        return 1
    if old_falcon or config.get("multi_query_attention") is False:
        return heads
    kv_heads = _optional(config, _KV_HEADS, file) or heads
    if heads % kv_heads:
        raise BadCheckpoint(f"{file}: {who} has {heads} heads over {kv_heads} key/value heads")
    return kv_heads


def _head_dim(config: Mapping[str, Any], heads: int, file: Path, who: str) -> int:
    found = _optional(config, _HEAD_DIM, file) or _OWN_HEAD_DIM.get(str(config.get("model_type")))
    if found is not None:
        return found
    hidden = _number(config, _HIDDEN, file, who)
    if hidden % heads:
        raise BadCheckpoint(f"{file}: hidden size {hidden} does not divide into {heads} heads")
    return hidden // heads


def _max_len(config: Mapping[str, Any], file: Path, who: str) -> int:
    """Positions the model was made for, its RoPE scaling counted in."""
    if config.get("model_type") == "bloom":  # ALiBi: no table, hence no number, ends it
        config = {"seq_length": 2048, **config}
    length = _number(config, _MAX_LEN, file, who)
    rope = rope_parameters(config)
    kind, factor = rope.get("rope_type"), rope.get("factor", 1.0)
    if kind not in ("linear", "dynamic", "yarn") or not isinstance(factor, (int, float)):
        return length
    if kind == "yarn":  # the stretched length is often already what max_position_embeddings says
        original = rope.get("original_max_position_embeddings")
        base = original if isinstance(original, int) and original > 0 else length
        return max(length if original else 0, math.floor(base * factor))
    return math.floor(length * factor)


def _stored_dtype(config: Mapping[str, Any], folder: Path) -> str:
    named = config.get("dtype") or config.get("torch_dtype")
    if isinstance(named, str) and named != "auto":
        return named.removeprefix("torch.")
    try:
        if which_files(folder).format != "safetensors":
            return "float32"
        sizes: dict[str, int] = {}
        for entry in list_weights(folder).values():
            sizes[entry.dtype] = sizes.get(entry.dtype, 0) + entry.end - entry.begin
    except BadCheckpoint:  # told when the weights are wanted; random ones need no files
        return "float32"
    return _DTYPES.get(max(sizes, key=lambda dtype: sizes[dtype], default="F32"), "float32")
