"""Loading: safetensors and .bin, sharded, fused, tied; and what is wrong is named."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from pagoda.models.info import read_model_info
from pagoda.platform import BadCheckpoint
from pagoda_torch.layers.context import ModelContext
from pagoda_torch.loader import load_weights
from pagoda_torch.models.llama import LlamaModel


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=32,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    return tmp_path


def load(folder: Path, load_format: str = "auto", dtype: Any = torch.float32) -> LlamaModel:
    context = ModelContext(read_model_info(folder), 32, dtype, torch.device("cpu"))
    model = LlamaModel(context)
    load_weights(model, str(folder), load_format, 0, False)
    return model


def change(folder: Path, **changes: Any) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    for name, value in changes.items():
        if value is None:
            del tensors[name]
        else:
            tensors[name] = value
    save_file(tensors, file)


def test_parts_land_in_their_rows(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    model = load(folder)
    prefix = "model.layers.1.self_attn"
    parts = [tensors[f"{prefix}.{x}_proj.weight"] for x in "qkv"]
    assert torch.equal(model.layers[1].attention.qkv.weight, torch.cat(parts))
    assert torch.equal(model.head.weight, tensors["lm_head.weight"])


def test_cast_shards_and_bin_give_the_same(folder: Path, tmp_path: Path) -> None:
    wanted = load(folder, dtype=torch.bfloat16).weights()
    theirs = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    sharded, pickled = tmp_path / "sharded", tmp_path / "pickled"
    theirs.save_pretrained(sharded, max_shard_size="4KB")
    assert len(list(sharded.glob("*.safetensors"))) > 2
    pickled.mkdir()
    (pickled / "config.json").write_text((sharded / "config.json").read_text())
    torch.save(theirs.state_dict(), pickled / "pytorch_model.bin")
    for other in (sharded, pickled):
        found = load(other, dtype=torch.bfloat16).weights()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_missing_unknown_and_misshapen_tensors_are_named(folder: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    change(folder, **{name: None, "model.layers.0.extra": torch.zeros(2)})
    with pytest.raises(BadCheckpoint, match=rf"missing: {name}.*not part.*layers\.0\.extra"):
        load(folder)
    change(folder, **{name: torch.zeros(3, 16), "model.layers.0.extra": None})
    with pytest.raises(BadCheckpoint, match=rf"{name} is \[3, 16\].*\[24, 16\]"):
        load(folder)
    change(folder, **{name: torch.zeros(24, 16, dtype=torch.int8)})
    with pytest.raises(BadCheckpoint, match=f"{name} is stored as I8"):
        load(folder)


def test_tied_head_needs_no_tensor(folder: Path) -> None:
    with pytest.raises(BadCheckpoint, match=r"missing: lm_head\.weight"):
        change(folder, **{"lm_head.weight": None})
        load(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    model = load(folder)
    assert model.head.weight is model.embedding.weight
    change(folder, **{"lm_head.weight": torch.zeros(40, 16)})
    load(folder)


class Payload:
    """Would run code if it were ever unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (exec, ("raise SystemExit('unpickled')",))


def test_a_pickle_is_never_run(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with (folder / "pytorch_model.bin").open("wb") as file:
        pickle.dump({"model.norm.weight": Payload()}, file)
    with pytest.raises(BadCheckpoint, match=r"pytorch_model\.bin: not a plain file of tensors"):
        load(folder)


def test_dummy_weights_follow_the_seed(folder: Path) -> None:
    one, two = (load(folder, "dummy").weights() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert one["model.embed_tokens.weight"].std() > 0.01
    assert (one["model.norm.weight"] == 1).all()
