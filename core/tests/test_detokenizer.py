"""The detokenizer: pieces equal the whole, stop strings are found wherever they fall."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers

from pagoda.sampling.params import SamplingParams
from pagoda.tokenizer import NoTokenizer, Tokenizer
from pagoda.tokenizer.detokenizer import Detokenizer

WORDS = ["▁the", "▁cat", "s", "▁", "a", "b", "c", "ab", "▁a", "é", "你", "END", "▁EN", "D", "\n"]


def fallback_tokenizer(strip: bool = True) -> Tokenizer:
    """As SentencePiece models are: specials, 256 bytes, words."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2}
    vocab |= {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    vocab |= {word: 259 + i for i, word in enumerate(WORDS)}
    backend = tokenizers.Tokenizer(
        models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True)
    )
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if strip:
        parts.append(decoders.Strip(" ", 1, 0))
    backend.decoder = decoders.Sequence(parts)
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    return Tokenizer(backend, {"eos_token": "</s>"}, {}, [2])


def byte_tokenizer() -> Tokenizer:
    """As GPT-2 is: every byte, some pairs, a special token and an added one with a space."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [a + b for a in "ĠäåðEN" for b in "½ĸŁD¤a"]
    vocab = {token: i for i, token in enumerate([*alphabet, *pairs])}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|end|>"])
    backend.add_tokens(["<a b>"])
    return Tokenizer(backend, {"eos_token": "<|end|>"}, {}, [len(vocab)])


def window_tokenizer() -> Tokenizer:
    """A decoder that nobody here knows."""
    vocab = {"[UNK]": 0, "hello": 1, "##ing": 2, "world": 3, "un": 4, "##do": 5, "a": 6, ",": 7}
    backend = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    backend.decoder = decoders.WordPiece(cleanup=False)
    return Tokenizer(backend, {}, {}, [])


MAKERS: list[Callable[[], Tokenizer]] = [
    fallback_tokenizer,
    lambda: fallback_tokenizer(strip=False),
    byte_tokenizer,
    window_tokenizer,
]
TOKENIZERS = [make() for make in MAKERS]


def stream(
    tokenizer: Tokenizer,
    token_ids: Sequence[int],
    cuts: random.Random,
    prompt: Sequence[int] = (),
    **fields,
) -> tuple[str, Detokenizer]:
    """All the text, appended in random pieces."""
    detokenizer = Detokenizer(tokenizer, SamplingParams(max_tokens=None, **fields), prompt)
    text, rest = "", list(token_ids)
    while rest:
        size = cuts.randint(0, 4)
        text += detokenizer.append(rest[:size])
        rest = rest[size:]
    return text + detokenizer.flush(), detokenizer


@settings(max_examples=200, deadline=None)
@example(0, [131, 277 + 274, 3], False, random.Random(0))  # an unknown id inside a run of bytes
@given(
    which=st.integers(0, len(TOKENIZERS) - 1),
    numbers=st.lists(st.integers(0, 2**16), max_size=30),
    skip=st.booleans(),
    cuts=st.randoms(use_true_random=False),
)
def test_pieces_equal_the_whole(which, numbers, skip, cuts) -> None:
    tokenizer = TOKENIZERS[which]
    ids = [number % (tokenizer.vocab_size + 3) for number in numbers]
    text, _ = stream(tokenizer, ids, cuts, skip_special_tokens=skip)
    assert text == tokenizer.decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize("tokenizer", TOKENIZERS[:3])
def test_the_text_of_one_token(tokenizer: Tokenizer) -> None:
    for token in range(tokenizer.vocab_size):
        alone = tokenizer.decode([token], skip_special_tokens=False)
        assert tokenizer.token_text(token).lstrip() == alone.lstrip()


@settings(max_examples=200, deadline=None)
@given(
    which=st.integers(0, 2),
    text=st.text(alphabet="abc é你😀\nEND", max_size=20),
    before=st.sampled_from(["", "a", "the a ", "你"]),
    cuts=st.randoms(use_true_random=False),
)
def test_text_after_a_prompt(which, text, before, cuts) -> None:
    tokenizer = TOKENIZERS[which]
    spell = bytes_as_ids(tokenizer)
    prompt, ids = spell(before), spell(text)
    whole = tokenizer.decode(prompt + ids)
    assert stream(tokenizer, ids, cuts, prompt)[0] == whole[len(tokenizer.decode(prompt)) :]


def bytes_as_ids(tokenizer: Tokenizer) -> Callable[[str], list[int]]:
    """Any text, one byte a token, whichever way this vocabulary spells bytes."""
    piece = tokenizer.backend.token_to_id
    if piece("<0x00>") is not None:
        return lambda text: [piece(f"<0x{byte:02X}>") for byte in text.encode()]
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return lambda text: [piece(c) for word, _ in level.pre_tokenize_str(text) for c in word]


@settings(max_examples=200, deadline=None)
@given(
    which=st.integers(0, 2),
    text=st.text(alphabet="abc é你\nEND", max_size=30),
    stop=st.lists(st.text(alphabet="abc é你\nEND", min_size=1, max_size=4), min_size=1, max_size=3),
    include=st.booleans(),
    cuts=st.randoms(use_true_random=False),
)
def test_stop_strings_cut_the_text(which, text, stop, include, cuts) -> None:
    tokenizer = TOKENIZERS[which]
    ids = bytes_as_ids(tokenizer)(text)
    whole = tokenizer.decode(ids)
    got, detokenizer = stream(tokenizer, ids, cuts, stop=stop, include_stop_str_in_output=include)
    ends = [whole.find(s) + len(s) for s in stop if s in whole]
    if not ends:
        assert (got, detokenizer.stop_reason) == (whole, None)
        return
    found = detokenizer.stop_reason
    assert found in stop
    # The first to be complete ends the text, even where a longer one began before it.
    end = whole.find(found) + len(found)
    assert end == min(ends)
    assert got == whole[: end if include else end - len(found)]


def test_what_could_begin_a_stop_string_is_held_back() -> None:
    tokenizer = TOKENIZERS[2]
    spell = bytes_as_ids(tokenizer)
    detokenizer = Detokenizer(tokenizer, SamplingParams(stop=["END", "NEW"]), [])
    assert detokenizer.append(spell("xE")) == "x"
    assert detokenizer.append(spell("N")) == ""
    assert detokenizer.append(spell("E")) == "E"
    assert detokenizer.append(spell("EN")) == "NE"
    assert detokenizer.flush() == "EN"
    detokenizer = Detokenizer(tokenizer, SamplingParams(stop=["END"]), [])
    assert detokenizer.append(spell("aENDb")) == "a"
    assert detokenizer.stop_reason == "END"
    assert detokenizer.append(spell("c")) == "" == detokenizer.flush()


def test_a_stop_string_ends_with_its_own_token() -> None:
    """A byte token that completes it is enough: the next token need not be waited for."""
    tokenizer = TOKENIZERS[0]
    detokenizer = Detokenizer(tokenizer, SamplingParams(stop=["\n"]), [])
    assert detokenizer.append([tokenizer.backend.token_to_id("a")]) == "a"
    assert detokenizer.append([3 + 10]) == ""
    assert detokenizer.stop_reason == "\n"


@pytest.mark.parametrize("which", [0, 2])
def test_min_tokens_hold_for_stop_strings(which: int) -> None:
    tokenizer = TOKENIZERS[which]
    ids = bytes_as_ids(tokenizer)("abxabyab")
    for min_tokens, expected in [(0, ""), (2, "abx"), (4, "abx"), (5, "abxaby"), (8, "abxabyab")]:
        params = SamplingParams(stop=["ab"], min_tokens=min_tokens)
        detokenizer = Detokenizer(tokenizer, params, [])
        text = "".join(detokenizer.append([token]) for token in ids) + detokenizer.flush()
        assert text == expected
        assert (detokenizer.stop_reason is None) == (min_tokens == 8)


def test_a_stop_token_shows_only_when_asked() -> None:
    tokenizer = TOKENIZERS[0]
    a, b = (tokenizer.backend.token_to_id(word) for word in "ab")
    plain = Detokenizer(tokenizer, SamplingParams(), [])
    assert plain.append([a, b], ends_with_stop_token=True) + plain.flush() == "a"
    shown = Detokenizer(tokenizer, SamplingParams(include_stop_str_in_output=True), [])
    assert shown.append([a, b], ends_with_stop_token=True) + shown.flush() == "ab"


def test_characters_come_whole() -> None:
    for tokenizer in TOKENIZERS[:3]:
        detokenizer = Detokenizer(tokenizer, SamplingParams(), [])
        ids = bytes_as_ids(tokenizer)("a😀你x" * 20)
        pieces = [detokenizer.append([token]) for token in ids]
        assert not any("\ufffd" in piece for piece in pieces)
        assert "".join(pieces) + detokenizer.flush() == "a😀你x" * 20
        # One cut at the end is shown only there, and as the whole decode shows it.
        detokenizer = Detokenizer(tokenizer, SamplingParams(), [])
        early = detokenizer.append(ids[:3])
        assert "\ufffd" not in early
        assert early + detokenizer.flush() == tokenizer.decode(ids[:3])


def test_a_character_begun_in_the_prompt_is_finished() -> None:
    for tokenizer in TOKENIZERS[:3]:
        ids = bytes_as_ids(tokenizer)("a\n你b")
        detokenizer = Detokenizer(tokenizer, SamplingParams(), ids[:3])
        assert detokenizer.flush() == ""
        text = detokenizer.append(ids[3:]) + detokenizer.flush()
        assert text == "你b"


def test_a_long_run_of_bytes_is_not_waited_for() -> None:
    tokenizer = TOKENIZERS[0]
    detokenizer = Detokenizer(tokenizer, SamplingParams(), [])
    ids = bytes_as_ids(tokenizer)("你好" * 100)
    early = "".join(detokenizer.append([token]) for token in ids)
    assert len(early) > 180
    assert early + detokenizer.flush() == "你好" * 100


def test_without_a_tokenizer_there_is_no_text() -> None:
    detokenizer = Detokenizer(NoTokenizer("somewhere"), SamplingParams(stop=["a"]), [1, 2])
    assert detokenizer.append([5, 6]) + detokenizer.flush() == ""


def test_cost_a_token_does_not_grow_with_the_text() -> None:
    """Counted, not timed: what a stream holds stays small."""
    for tokenizer in TOKENIZERS:
        held = tokenizer.text_stream([], True)
        for token in [4, 5] * 3000:
            held.push(token)
        sizes = [len(v) for v in vars(held).values() if isinstance(v, list | bytearray | str)]
        assert max(sizes, default=0) <= 300
