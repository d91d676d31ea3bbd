"""The bundled model: complete, small, read without a framework, true to its golden tokens."""

import json
from typing import Any

import pytest
from tokenizers import Tokenizer

from pagoda.assets import golden, storyteller

MESSAGES = [
    {"role": "system", "content": "You tell short stories."},
    {"role": "user", "content": " Tell me a story about a dog. "},
]


def read_json(name: str) -> Any:
    return json.loads((storyteller() / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(storyteller() / "tokenizer.json"))


@pytest.fixture(scope="module")
def entries() -> list[dict[str, Any]]:
    return json.loads(golden().read_text(encoding="utf-8"))


def test_folder_is_complete_and_small() -> None:
    names = {path.name for path in storyteller().iterdir() if path.is_file()}
    assert names >= {
        "config.json",
        "generation_config.json",
        "golden_greedy_fp32.json",
        "model.safetensors",
        "README.md",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert sum(path.stat().st_size for path in storyteller().iterdir()) <= 16 * 2**20


def test_config_has_the_shapes_that_kernels_want() -> None:
    config = read_json("config.json")
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["head_dim"] == 64
    assert config["hidden_size"] == 64 * config["num_attention_heads"]
    assert config["num_attention_heads"] == 2 * config["num_key_value_heads"]
    assert config["max_position_embeddings"] >= 1024


def test_weights_are_bfloat16_and_fit_the_config() -> None:
    path = storyteller() / "model.safetensors"
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    header.pop("__metadata__", None)
    config = read_json("config.json")
    assert {tensor["dtype"] for tensor in header.values()} == {"BF16"}
    table = header["model.embed_tokens.weight"]["shape"]
    assert table == [config["vocab_size"], config["hidden_size"]]
    assert "lm_head.weight" not in header and config["tie_word_embeddings"]


@pytest.mark.parametrize(
    "text", ["Once upon a time", 'He said, "No!"\n  2 dogs', "naïve ☃ 故事 🐶", ""]
)
def test_tokenizer_gives_text_back(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text).ids
    assert ids[0] == tokenizer.token_to_id("<|endoftext|>")
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode(text, add_special_tokens=False).ids == ids[1:]


def test_both_ends_stop_generation(tokenizer: Tokenizer) -> None:
    ends = [tokenizer.token_to_id(token) for token in ("<|endoftext|>", "<|im_end|>")]
    assert read_json("generation_config.json")["eos_token_id"] == ends
    assert read_json("config.json")["vocab_size"] == tokenizer.get_vocab_size()


def test_chat_template_opens_the_answer(tokenizer: Tokenizer) -> None:
    sandbox = pytest.importorskip("jinja2.sandbox")
    settings = read_json("tokenizer_config.json")
    template = sandbox.ImmutableSandboxedEnvironment().from_string(settings["chat_template"])
    text = template.render(
        messages=MESSAGES, add_generation_prompt=True, bos_token=settings["bos_token"]
    )
    assert text == (
        "<|endoftext|><|im_start|>system\nYou tell short stories.<|im_end|>\n"
        "<|im_start|>user\nTell me a story about a dog.<|im_end|>\n<|im_start|>assistant\n"
    )
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert [ids.count(special) for special in range(3)] == [1, 3, 2]


def test_golden_tokens_say_the_golden_text(
    tokenizer: Tokenizer, entries: list[dict[str, Any]]
) -> None:
    assert len(entries) == 8
    assert sum("messages" in entry for entry in entries) >= 2
    for entry in entries:
        is_chat = "messages" in entry
        ids = tokenizer.encode(entry["prompt"], add_special_tokens=not is_chat).ids
        assert ids == entry["prompt_ids"]
        assert len(entry["output_ids"]) == 128
        assert tokenizer.decode(entry["output_ids"], skip_special_tokens=False) == entry["text"]
        assert entry["min_gap"] > 1e-3


def test_transformers_gives_the_first_golden_tokens(entries: list[dict[str, Any]]) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(storyteller(), dtype=torch.float32)
    for entry in entries[:2] + entries[-1:]:
        # One pass over prompt and answer checks every greedy choice at once.
        start = len(entry["prompt_ids"])
        ids = torch.tensor([entry["prompt_ids"] + entry["output_ids"]])
        with torch.no_grad():
            chosen = model(ids).logits[0, start - 1 : -1].argmax(-1)
        assert chosen.tolist() == entry["output_ids"]
