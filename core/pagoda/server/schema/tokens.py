"""The requests of ``/tokenize`` and ``/detokenize``."""

from __future__ import annotations

from pagoda.server.schema.chat import ChatFields
from pagoda.server.schema.fields import RequestModel, TokenIds


class TokenizeRequest(RequestModel):
    """Tokens of a text."""

    model: str | None = None
    prompt: str
    add_special_tokens: bool = True
    return_token_strs: bool | None = None


class TokenizeChatRequest(ChatFields, RequestModel):
    """Tokens of a conversation, as a chat completion would see them."""

    model: str | None = None
    return_token_strs: bool | None = None


class DetokenizeRequest(RequestModel):
    """Text of tokens."""

    model: str | None = None
    tokens: TokenIds
