"""Turn a Hugging Face folder into what a peer loads; run inside that peer's environment.

python convert.py openvino|vllm|gguf SOURCE TARGET f32|bf16|int8|int4"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

GROUP = 128


def openvino(source: Path, target: Path, precision: str) -> None:
    import nncf
    import openvino
    from openvino_tokenizers import convert_tokenizer
    from optimum.intel import OVModelForCausalLM
    from transformers import AutoTokenizer

    exported = OVModelForCausalLM.from_pretrained(
        source, export=True, compile=False, load_in_8bit=False
    )
    model = exported.model
    modes = nncf.CompressWeightsMode
    if precision == "int8":
        model = nncf.compress_weights(model, mode=modes.INT8_SYM)
    elif precision == "int4":
        model = nncf.compress_weights(model, mode=modes.INT4_SYM, group_size=GROUP, ratio=1.0)
    tokenizers = convert_tokenizer(AutoTokenizer.from_pretrained(source), with_detokenizer=True)
    target.mkdir(parents=True)
    for name, part in zip(("model", "tokenizer", "detokenizer"), (model, *tokenizers), strict=True):
        openvino.save_model(part, target / f"openvino_{name}.xml", compress_to_fp16=False)
    _copy_small(source, target)


def _copy_small(source: Path, target: Path) -> None:
    for file in source.glob("*.json"):
        shutil.copy(file, target)


def vllm(source: Path, target: Path, precision: str) -> None:
    """Rounded to nearest, in the compressed-tensors layout: int8 by channel with int8 activations
    by token, or int4 in groups.  Embedding and head stay as they are."""
    import torch
    from safetensors.torch import load_file, save_file

    target.mkdir(parents=True)
    written: dict[str, Any] = {}
    for name, tensor in load_file(source / "model.safetensors").items():
        if tensor.dim() != 2 or "embed" in name or "lm_head" in name:
            written[name] = tensor.contiguous()
            continue
        rows, columns = tensor.shape
        if precision == "int8":
            scale = tensor.float().abs().amax(1, keepdim=True) / 127
            written[name] = (tensor / scale).round().clamp(-127, 127).to(torch.int8)
        else:
            groups = tensor.float().view(rows, columns // GROUP, GROUP)
            scale = groups.abs().amax(2, keepdim=True) / 7
            nibbles = (groups / scale).round().clamp(-8, 7).long().view(rows, -1, 8) + 8
            words = (nibbles << (4 * torch.arange(8))).sum(-1)
            written[name + "_packed"] = torch.where(words >> 31 > 0, words - (1 << 32), words).int()
            written[name + "_shape"] = torch.tensor([rows, columns])
            scale = scale[:, :, 0]
        written[name + "_scale"] = scale.to(torch.bfloat16).contiguous()
    save_file(written, target / "model.safetensors", metadata={"format": "pt"})
    _copy_small(source, target)
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = _compressed_tensors(precision)
    (target / "config.json").write_text(json.dumps(config))


def _compressed_tensors(precision: str) -> dict[str, Any]:
    eight = precision == "int8"
    weights = {"num_bits": 8 if eight else 4, "type": "int", "symmetric": True, "dynamic": False}
    weights |= {"strategy": "channel"} if eight else {"strategy": "group", "group_size": GROUP}
    inputs = {"num_bits": 8, "type": "int", "symmetric": True, "dynamic": True, "strategy": "token"}
    group = {
        "targets": ["Linear"],
        "weights": weights,
        "input_activations": inputs if eight else None,
        "output_activations": None,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "int-quantized" if eight else "pack-quantized",
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": group},
    }


def gguf(source: Path, target: Path, precision: str) -> None:
    """Qwen2's shape with a tokenizer's tokens; the benchmark sends token ids alone."""
    import torch
    from gguf import GGMLQuantizationType, GGUFWriter, get_tensor_name_map
    from gguf.constants import MODEL_ARCH
    from safetensors.torch import load_file
    from transformers import AutoTokenizer

    config = json.loads((source / "config.json").read_text())
    writer = GGUFWriter(target, "qwen2")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    tokenizer: Any = AutoTokenizer.from_pretrained(source)
    tokens = tokenizer.convert_ids_to_tokens(list(range(config["vocab_size"])))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([t or f"<unused_{i}>" for i, t in enumerate(tokens)])
    writer.add_token_types([1] * len(tokens))
    merges = json.loads((source / "tokenizer.json").read_text())["model"]["merges"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_eos_token_id(0)
    names = get_tensor_name_map(MODEL_ARCH.QWEN2, config["num_hidden_layers"])
    for name, tensor in load_file(source / "model.safetensors").items():
        short = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if tensor.dim() == 1 or precision == "f32":
            writer.add_tensor(short, tensor.float().numpy())
        else:
            raw = tensor.to(torch.bfloat16).view(torch.uint8).numpy()
            writer.add_tensor(short, raw, raw_dtype=GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    what, source, target, precision = sys.argv[1:]
    {"openvino": openvino, "vllm": vllm, "gguf": gguf}[what](Path(source), Path(target), precision)
