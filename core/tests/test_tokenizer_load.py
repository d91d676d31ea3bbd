"""Tokenizers from model folders: the same tokens as transformers makes, and what broken or missing
ones say.
"""

from __future__ import annotations

import json
import lzma
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pagoda.platform.errors import BadCheckpoint, InvalidValue, PagodaError
from pagoda.sampling.params import SamplingParams
from pagoda.tokenizer import NoTokenizer, load_tokenizer
from pagoda.tokenizer.detokenizer import Detokenizer
from pagoda.tokenizer.tokenizer import LONG_TEXT

NAMES = ["gpt2", "qwen2", "minimind6400", "stories260K"]

TEXTS = [
    "",
    " ",
    "Hello world",
    "  two  spaces\n\n\ttab ",
    "héllo 你好 😀👩‍👩‍👧 ﷽ \u0000 x",
    "<|im_start|>user\nhi<|im_end|>\n<|endoftext|>",
    "<s>a</s> b<unk>",
    "1234567890 -- 'tis I'll",
    "ﬁ Å é",
]


@pytest.fixture(scope="session")
def folders(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    qwen2 = tmp_path_factory.mktemp("qwen2")
    packed = assets / "tokenizers" / "qwen2"
    unpacked = lzma.decompress((packed / "tokenizer.json.xz").read_bytes())
    (qwen2 / "tokenizer.json").write_bytes(unpacked)
    shutil.copy(packed / "tokenizer_config.json", qwen2)
    return {
        "gpt2": assets / "tokenizers" / "gpt2",
        "qwen2": qwen2,
        "minimind6400": assets / "tokenizers" / "minimind6400",
        "stories260K": assets / "models" / "stories260K" / "hf",
    }


@pytest.mark.parametrize("name", NAMES)
def test_equals_transformers(name: str, folders: dict[str, Path]) -> None:
    transformers = pytest.importorskip("transformers")
    mine = load_tokenizer(str(folders[name]))
    theirs = transformers.AutoTokenizer.from_pretrained(str(folders[name]))
    assert mine.vocab_size == len(theirs)
    assert mine.eos_token_ids == (theirs.eos_token_id,)
    assert mine.special_tokens.items() <= theirs.special_tokens_map.items()
    for text in TEXTS:
        for add in (True, False):
            assert mine.encode(text, add) == theirs.encode(text, add_special_tokens=add), text
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    for _ in range(100):
        ids = [rng.randrange(len(theirs)) for _ in range(rng.randrange(12))]
        for skip in (True, False):
            want = theirs.decode(ids, skip_special_tokens=skip)
            assert mine.decode(ids, skip) == want
            detokenizer = Detokenizer(mine, SamplingParams(skip_special_tokens=skip), [])
            assert detokenizer.append(ids) + detokenizer.flush() == want


@pytest.mark.parametrize("name", NAMES)
def test_text_comes_back_token_by_token(name: str, folders: dict[str, Path]) -> None:
    tokenizer = load_tokenizer(str(folders[name]))
    prompt = tokenizer.encode("Once upon a time")
    text = " there was a naïve 猫 😺.\nThe\n\nend"
    ids = tokenizer.encode("x" + text, add_special_tokens=False)
    detokenizer = Detokenizer(tokenizer, SamplingParams(), prompt)
    pieces = [detokenizer.append([token]) for token in ids] + [detokenizer.flush()]
    assert "".join(pieces).endswith(text)
    assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("name", NAMES)
def test_long_texts_are_encoded_alike(name: str, folders: dict[str, Path]) -> None:
    tokenizer = load_tokenizer(str(folders[name]))
    text = "".join(TEXTS) * 100
    assert len(text) > LONG_TEXT
    for special in (True, False):
        expected = tokenizer.backend.encode(text, add_special_tokens=special).ids
        assert tokenizer.encode(text, add_special_tokens=special) == expected
    assert len(text) <= len(expected) * tokenizer.longest_piece


def test_sentencepiece_converts_or_says_what_is_missing(assets: Path, tmp_path: Path) -> None:
    shutil.copy(assets / "tokenizers/mistral/tokenizer.model.v1", tmp_path / "tokenizer.model")
    settings = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    try:
        tokenizer = load_tokenizer(str(tmp_path))
    except PagodaError as error:
        assert "pip install" in str(error) and "tokenizer.model" in str(error)
        return
    assert tokenizer.vocab_size == 32000
    assert tokenizer.eos_token_ids == (2,)
    assert tokenizer.encode("Hello")[0] == 1


def test_special_tokens_of_the_config(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copy(folders["gpt2"] / "tokenizer.json", tmp_path)
    settings = {
        "bos_token": {"content": "<|endoftext|>", "lstrip": False, "rstrip": False},
        "eos_token": "<|done|>",
        "add_bos_token": True,
        "add_eos_token": True,
        "added_tokens_decoder": {"50257": {"content": "<plain>", "special": False}},
        "additional_special_tokens": ["<extra>"],
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = load_tokenizer(str(tmp_path))
    assert tokenizer.vocab_size == 50260
    plain, done = (tokenizer.backend.token_to_id(t) for t in ("<plain>", "<|done|>"))
    assert plain == 50257
    assert tokenizer.eos_token_ids == (done,)
    assert tokenizer.encode("a<plain>") == [50256, 64, plain, done]
    assert tokenizer.encode("a", add_special_tokens=False) == [64]
    assert tokenizer.decode([64, plain, done]) == "a<plain>"
    assert tokenizer.decode([64, plain, done], skip_special_tokens=False) == "a<plain><|done|>"
    assert tokenizer.bos_token_id == 50256


def test_bad_input_is_named(folders: dict[str, Path]) -> None:
    tokenizer = load_tokenizer(str(folders["stories260K"]))
    with pytest.raises(InvalidValue, match="prompt"):
        tokenizer.encode("a\ud800")
    for ids in ([-1], [2**40], ["a"], [None]):
        with pytest.raises(InvalidValue, match="tokens"):
            tokenizer.decode(ids)
    assert tokenizer.decode([500_000]) == ""


def test_folder_without_tokenizer(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(tmp_path))
    assert isinstance(tokenizer, NoTokenizer)
    assert tokenizer.decode([1, 2]) == "" and tokenizer.eos_token_ids == ()
    with pytest.raises(InvalidValue, match="token ids"):
        tokenizer.encode("hello")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"model": 3}', "\xff"])
def test_broken_tokenizer_json(text: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(BadCheckpoint, match=r"tokenizer\.json"):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize(
    "settings", [[], {"eos_token": {"id": 3}}, {"chat_template": 3}, {"chat_template": [{"a": 1}]}]
)
def test_broken_settings(settings: object, folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copy(folders["stories260K"] / "tokenizer.json", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(BadCheckpoint):
        load_tokenizer(str(tmp_path))


def test_needs_neither_torch_nor_transformers(folders: dict[str, Path]) -> None:
    program = (
        "import sys; from pagoda.tokenizer import load_tokenizer; "
        "from pagoda.tokenizer.detokenizer import Detokenizer; "
        f"t = load_tokenizer({str(folders['stories260K'])!r}); "
        "t.render_chat([{'role': 'user', 'content': t.decode(t.encode('x'))}], '{{ messages }}'); "
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
