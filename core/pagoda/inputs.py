"""What a user puts in: prompts as dictionaries, with vLLM's names."""

from __future__ import annotations

from typing import TypedDict


class _Salted(TypedDict, total=False):
    cache_salt: str  # prefixes are shared only between prompts of equal salt


class TextPrompt(_Salted):
    """A prompt to be tokenized."""

    prompt: str


class TokensPrompt(_Salted):
    """A prompt by token ids."""

    prompt_token_ids: list[int]
