"""Where in a text its tokens begin, for tokenizers that spell texts as they are and others."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import processors

from pagoda.tokenizer.load import load_tokenizer

TEXTS = ["Hi{0}there you", "Hi{0} there, you", "{0}x{0}", " a  b\n\nc.\n\nD", "{0}", "é漢 {0}é漢"]


@pytest.mark.parametrize("text", TEXTS)
def test_bytes(assets: Path, tmp_path: Path, text: str) -> None:
    folder = shutil.copytree(assets / "tokenizers" / "gpt2", tmp_path / "gpt2")
    backend = Backend.from_file(str(folder / "tokenizer.json"))
    bos = ("<|endoftext|>", 50256)
    template = processors.TemplateProcessing(single=f"{bos[0]} $A", special_tokens=[bos])
    backend.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=True), template]
    )
    backend.save(str(folder / "tokenizer.json"))
    tokenizer = load_tokenizer(str(folder))
    text = text.format(bos[0])
    starts, ids = tokenizer.text_starts(text), tokenizer.encode(text)
    whole = [(start, tokenizer.token_text(i)) for start, i in zip(starts, ids, strict=True)]
    assert whole[0] == (0, bos[0]) and starts[0] == starts[1] == 0
    assert all(text.startswith(t, start) for start, t in whole[1:] if "\ufffd" not in t)
    assert starts == sorted(starts) and starts[1:] == tokenizer.text_starts(text, False)


@pytest.mark.parametrize("text", TEXTS)
def test_words_with_a_blank_in_front(stories260k: Path, text: str) -> None:
    tokenizer = load_tokenizer(str(stories260k / "hf"))
    text = text.format("</s>")
    starts, ids = tokenizer.text_starts(text), tokenizer.encode(text)
    assert (starts[0], ids[0]) == (0, tokenizer.bos_token_id) and len(starts) == len(ids)
    for start, token in list(zip(starts, ids, strict=True))[1:]:
        shown = tokenizer.token_text(token)
        if "\ufffd" not in shown:
            assert text.startswith((shown, shown.lstrip(" ")), start), (start, shown)
    assert starts == sorted(starts)
