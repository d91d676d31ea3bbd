"""``/tokenize`` and ``/detokenize``: the model's tokenizer over HTTP."""

from __future__ import annotations

from fastapi import Request, Response

from pagoda.server import body
from pagoda.server.schema.answers import Text, Tokens
from pagoda.server.schema.tokens import DetokenizeRequest, TokenizeChatRequest, TokenizeRequest
from pagoda.server.served import served_by
from pagoda.server.stream import json_response


async def tokenize(request: Request) -> Response:
    """Tokens of a prompt, or of messages as the chat route would see them."""
    served = served_by(request)
    asked = await body.read_json(request, served.settings.max_body_bytes)
    wanted: TokenizeRequest | TokenizeChatRequest
    if isinstance(asked, dict) and "messages" in asked:
        wanted = body.validated(asked, TokenizeChatRequest)
    else:
        wanted = body.validated(asked, TokenizeRequest)
    served.check_name(wanted.model)
    text = wanted.prompt if isinstance(wanted, TokenizeRequest) else await served.render(wanted)
    ids = await served.encode(text, wanted.add_special_tokens)
    texts = served.texts(as_ids=False)
    shown = [texts.show(token) for token in ids] if wanted.return_token_strs else None
    max_model_len = served.llm.info.max_model_len
    answer = Tokens(count=len(ids), max_model_len=max_model_len, tokens=ids, token_strs=shown)
    return json_response(answer)


async def detokenize(request: Request) -> Response:
    """The text of tokens, special ones included."""
    served = served_by(request)
    wanted = await body.read(request, DetokenizeRequest, served.settings.max_body_bytes)
    served.check_name(wanted.model)
    served.check_ids(wanted.tokens, "tokens")
    text = served.tokenizer.decode(wanted.tokens, skip_special_tokens=False)
    return json_response(Text(prompt=text))
