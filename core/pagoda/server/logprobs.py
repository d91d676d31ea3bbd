"""Log-probabilities in the two shapes of OpenAI's API, and prompt logprobs in vLLM's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pagoda.outputs import Logprob, TokenLogprobs
from pagoda.server.schema.answers import (
    ChatLogprobs,
    ChatTokenLogprob,
    CompletionLogprobs,
    TokenLogprob,
)
from pagoda.tokenizer.spelling import TextStream

LOWEST = -9999.0
"""Stands for minus infinity, which JSON cannot say."""


class TokenTexts:
    """How tokens are shown: their text, or ``token_id:N`` on request."""

    def __init__(self, text_of: Callable[[int], str], as_ids: bool):
        self.text_of = text_of
        self.as_ids = as_ids

    def show(self, token: int, entry: Logprob | None = None) -> str:
        if self.as_ids:
            return f"token_id:{token}"
        if entry is not None and entry.decoded_token is not None:
            return entry.decoded_token
        return self.text_of(token)


class Offsets:
    """Where in a growing text its tokens begin: the first ones at ``starts``, those that ``text``
    spells from character ``end`` on."""

    def __init__(self, text: TextStream, starts: Sequence[int] = (), end: int = 0):
        self._text = text
        self._starts = iter(starts)
        self._end = end

    def of_next(self, token: int) -> int:
        known = next(self._starts, None)
        if known is not None:
            return known
        start = self._end + len(self._text.likely())
        self._end += len(self._text.push(token))
        return start


def completion_logprobs(
    token_ids: Sequence[int],
    positions: Sequence[TokenLogprobs | None],
    texts: TokenTexts,
    offsets: Offsets,
) -> CompletionLogprobs:
    """The legacy shape for the next tokens of a text."""
    shown = CompletionLogprobs([], [], [], [])
    for token, position in zip(token_ids, positions, strict=True):
        entry = position.get(token) if position else None
        shown.text_offset.append(offsets.of_next(token))
        shown.tokens.append(texts.show(token, entry))
        shown.token_logprobs.append(_finite(entry) if entry else None)
        shown.top_logprobs.append(_by_text(position, texts) if position else None)
    return shown


def chat_logprobs(
    token_ids: Sequence[int],
    positions: Sequence[TokenLogprobs],
    texts: TokenTexts,
    num_top: int,
) -> ChatLogprobs:
    """The chat shape with the ``num_top`` most likely tokens of each position."""
    content = []
    for token, position in zip(token_ids, positions, strict=True):
        chosen = _token(token, position[token], texts)
        top = [_token(t, e, texts) for t, e in _ranked(position)[:num_top]]
        content.append(ChatTokenLogprob(chosen.token, chosen.logprob, chosen.bytes, top))
    return ChatLogprobs(content)


def prompt_logprobs(
    positions: Sequence[TokenLogprobs | None], texts: TokenTexts
) -> list[dict[str, Any] | None]:
    """One object a prompt token, token ids to logprob, rank and text; None for the first."""
    return [
        {
            str(token): {
                "logprob": _finite(entry),
                "rank": entry.rank,
                "decoded_token": texts.show(token, entry),
            }
            for token, entry in position.items()
        }
        if position
        else None
        for position in positions
    ]


def _token(token: int, entry: Logprob, texts: TokenTexts) -> TokenLogprob:
    text = texts.show(token, entry)
    spelled = None if "\ufffd" in text else list(text.encode())  # a part of a character
    return TokenLogprob(text, _finite(entry), spelled)


def _by_text(position: TokenLogprobs, texts: TokenTexts) -> dict[str, float]:
    shown: dict[str, float] = {}
    for token, entry in _ranked(position):  # of two tokens with one text the likelier stays
        shown.setdefault(texts.show(token, entry), _finite(entry))
    return shown


def _ranked(position: TokenLogprobs) -> list[tuple[int, Logprob]]:
    return sorted(position.items(), key=lambda item: -item[1].logprob)


def _finite(entry: Logprob) -> float:
    return max(entry.logprob, LOWEST)
