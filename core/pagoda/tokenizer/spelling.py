"""Tokens to text one at a time: what a whole sequence decodes to, in pieces, at a cost a token that
does not grow with the text.  Stop strings are left to ``pagoda.tokenizer.detokenizer``.
"""

from __future__ import annotations

import codecs
import functools
import json
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import tokenizers

REPLACEMENT = "\ufffd"

LONGEST_RUN = 32
"""Byte tokens held back for the sake of equality with a decode of the whole.  A longer run of them
is some script that the vocabulary lacks, whose reader should not wait for its end."""

CONTEXT = 8
"""Tokens before a piece of text that may change how a decoder we do not know spells it."""


Skips = Callable[[int], bool]
"""Whether a token is left out of the text."""


class TextStream(Protocol):
    """The text of one growing sequence."""

    def push(self, token_id: int) -> str:
        """Text that is now certain."""
        ...

    def likely(self) -> str:
        """Text that follows unless later tokens prove its bytes wrong."""
        ...

    def flush(self) -> str:
        """The rest, cut characters as U+FFFD."""
        ...


def spelling_of(backend: tokenizers.Tokenizer) -> Callable[[Sequence[int], bool], TextStream]:
    """How this tokenizer's decoder spells: a maker of streams from the tokens that went before and
    whether special tokens are skipped."""
    decoder = json.loads(backend.decoder.__getstate__()) if backend.decoder else {"type": None}
    special = functools.cache(functools.partial(is_special, backend))
    if decoder["type"] == "ByteLevel":
        spelled = _Lazy(backend, _byte_level)
        return lambda before, skip: ByteLevelStream(spelled, special if skip else _no_token, before)
    rules = _fallback_rules(decoder)
    if rules is not None:
        replace, strip = rules
        pieces = _Lazy(backend, lambda token: _fallback(token, replace))
        return lambda before, skip: FallbackStream(
            pieces, special if skip else _no_token, before, strip
        )
    return lambda before, skip: WindowStream(backend, special if skip else _no_token, before)


def is_special(backend: tokenizers.Tokenizer, token_id: int) -> bool:
    """Whether a decode may leave this token out.  Asking for all added tokens takes half a second
    where a vocabulary is padded with very many."""
    shown = backend.decode([token_id], skip_special_tokens=True)
    return shown != backend.decode([token_id], skip_special_tokens=False)


def _no_token(token_id: int) -> bool:
    return False


class _Lazy(dict[int, Any]):
    """Token id to its spelling, found when first asked for; None for ids beyond the vocabulary,
    which models often have rows for and decoders pass over."""

    def __init__(self, backend: tokenizers.Tokenizer, spell: Callable[[str], Any]) -> None:
        super().__init__()
        self._backend = backend
        self._spell = spell

    def __missing__(self, token_id: int) -> Any:
        token = self._backend.id_to_token(token_id)
        piece = self[token_id] = None if token is None else self._spell(token)
        return piece


def _bytes_of_characters() -> dict[str, int]:
    """GPT-2's alphabet: printable bytes stand for themselves, the others for U+0100 and on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(0x100 + i): byte for i, byte in enumerate(others)}


_ALPHABET = _bytes_of_characters()


def _byte_level(token: str) -> bytes:
    try:
        return bytes([_ALPHABET[character] for character in token])
    except KeyError:  # an added token, spelled as it is
        return token.encode()


class ByteLevelStream:
    """Tokens are bytes, their sequence is UTF-8 (the GPT-2 family)."""

    def __init__(self, spelled: _Lazy, skips: Skips, before: Sequence[int]) -> None:
        self._spelled = spelled
        self._skips = skips
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        # A prompt may end inside a character, which the first new tokens then complete.
        for token_id in before[-CONTEXT:]:
            self.push(token_id)

    def push(self, token_id: int) -> str:
        if self._skips(token_id):
            return ""
        return self._utf8.decode(self._spelled[token_id] or b"")

    def likely(self) -> str:
        return ""

    def flush(self) -> str:
        return self._utf8.decode(b"", final=True)


def _fallback_rules(decoder: dict[str, Any]) -> tuple[list[tuple[str, str]], bool] | None:
    """The replacements within a token, and whether a text's first space goes; None when the
    decoder does anything else than that, byte tokens and joining."""
    replace: list[tuple[str, str]] = []
    order = ["Replace", "ByteFallback", "Fuse", "Strip"]
    place = 0
    parts = decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
    kinds = [part["type"] for part in parts]
    if "ByteFallback" not in kinds or "Fuse" not in kinds:
        return None
    for part in parts:
        kind = part["type"]
        if kind not in order or order.index(kind) < place:
            return None
        place = order.index(kind)
        if kind == "Replace":
            pattern = part["pattern"].get("String")
            if not pattern:
                return None
            replace.append((pattern, part["content"]))
        if kind == "Strip" and (part["content"], part["start"], part["stop"]) != (" ", 1, 0):
            return None
    return replace, "Strip" in kinds


def _fallback(token: str, replace: list[tuple[str, str]]) -> str | int:
    """A piece of text, or the byte that the token stands for."""
    for pattern, content in replace:
        token = token.replace(pattern, content)
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        try:
            return int(token[3:5], 16)
        except ValueError:
            pass
    return token


class FallbackStream:
    """Tokens are text, or single bytes where the vocabulary has no token (the SentencePiece
    family).  A run of byte tokens is UTF-8 as a whole, or else one U+FFFD a byte."""

    def __init__(self, pieces: _Lazy, skips: Skips, before: Sequence[int], strip: bool) -> None:
        self._pieces = pieces
        self._skips = skips
        self._run = bytearray()
        self._strip = strip and all(skips(t) or pieces[t] in ("", None) for t in before)
        for token_id in before[-CONTEXT:]:
            self.push(token_id)
        self._cut_run()

    def push(self, token_id: int) -> str:
        if self._skips(token_id):
            return ""
        piece = self._pieces[token_id]
        if piece is None:
            return ""
        if isinstance(piece, int):
            self._run.append(piece)
            return self._cut_run() if len(self._run) > LONGEST_RUN else ""
        return self._stripped((self._end_run() if self._run else "") + piece)

    def likely(self) -> str:
        try:
            text = self._run.decode()
        except UnicodeDecodeError:
            return ""
        return text[1:] if self._strip and text.startswith(" ") else text

    def flush(self) -> str:
        return self._stripped(self._end_run())

    def _stripped(self, text: str) -> str:
        if self._strip and text:
            self._strip = False
            return text[1:] if text[0] == " " else text
        return text

    def _end_run(self) -> str:
        try:
            text = self._run.decode()
        except UnicodeDecodeError:
            text = REPLACEMENT * len(self._run)
        self._run.clear()
        return text

    def _cut_run(self) -> str:
        """Take the whole characters off the run, and bytes that cannot begin one."""
        utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        text = utf8.decode(bytes(self._run))
        self._run = bytearray(utf8.getstate()[0])
        return self._stripped(text)


class WindowStream:
    """Any other decoder: decodes the last few tokens again with each new one, and takes for new
    what comes after their text."""

    def __init__(self, backend: tokenizers.Tokenizer, skips: Skips, before: Sequence[int]) -> None:
        self._backend = backend
        self._skips = skips
        self._window = [token for token in before[-4 * CONTEXT :] if self._spells(token)]
        self._known = self._decode().rstrip(REPLACEMENT)

    def push(self, token_id: int) -> str:
        if not self._spells(token_id):
            return ""
        self._window.append(token_id)
        text = self._decode()
        if text.endswith(REPLACEMENT) and len(self._window) < 5 * CONTEXT:
            return ""
        return self._take(text)

    def likely(self) -> str:
        return ""

    def flush(self) -> str:
        return self._take(self._decode())

    def _spells(self, token_id: int) -> bool:
        return not self._skips(token_id) and self._backend.id_to_token(token_id) is not None

    def _decode(self) -> str:
        return self._backend.decode(self._window, skip_special_tokens=False)

    def _take(self, text: str) -> str:
        new = text[len(self._known) :]
        self._window = self._window[-CONTEXT:]
        self._known = self._decode()
        return new
