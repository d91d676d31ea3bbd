"""The web application: which route does what, and what every request passes first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from pydantic import BaseModel

from pagoda import __version__
from pagoda.server import chat, completions, errors, status, tokens
from pagoda.server.auth import OPEN_PATHS, KeyCheck
from pagoda.server.schema.chat import ChatRequest
from pagoda.server.schema.completion import CompletionRequest
from pagoda.server.schema.tokens import DetokenizeRequest, TokenizeRequest
from pagoda.server.served import ServedModel
from pagoda.server.settings import ServerSettings

if TYPE_CHECKING:
    from pagoda.async_llm import AsyncLLM


def create_app(llm: AsyncLLM, settings: ServerSettings) -> FastAPI:
    """The server's ASGI application on a running engine.  Raises PagodaError when the chat
    template that the settings name cannot be read."""
    app = FastAPI(title="Pagoda", version=__version__, redirect_slashes=False)
    app.state.served = ServedModel(llm, settings)
    errors.install(app)
    for path in sorted(OPEN_PATHS):
        app.get(path)(status.health)
        app.head(path, include_in_schema=False)(status.health)  # `wget --spider`
    app.get("/version")(status.version)
    app.get("/load")(status.load)
    app.get("/metrics")(status.metrics)
    app.get("/v1/models")(status.models)
    app.get("/v1/models/{name:path}")(status.model)
    app.post("/v1/completions", openapi_extra=_body(CompletionRequest))(completions.create)
    app.post("/v1/chat/completions", openapi_extra=_body(ChatRequest))(chat.create)
    app.post("/tokenize", openapi_extra=_body(TokenizeRequest))(tokens.tokenize)
    app.post("/detokenize", openapi_extra=_body(DetokenizeRequest))(tokens.detokenize)
    if settings.keys:
        app.add_middleware(KeyCheck, keys=settings.keys)
    app.add_middleware(  # outside the key check: a browser's preflight carries no key
        CORSMiddleware,
        allow_origins=list(settings.allowed_origins),
        allow_methods=["*"],
        allow_headers=["*"],
    )
    return app


def _body(schema: type[BaseModel]) -> dict[str, Any]:
    """For the OpenAPI page; the routes read bodies themselves to answer failures in one shape."""
    described = schema.model_json_schema()
    parts = described.pop("$defs", {})
    return {"requestBody": {"content": {"application/json": {"schema": _whole(described, parts)}}}}


def _whole(described: Any, parts: dict[str, Any]) -> Any:
    """A JSON schema with its references replaced by what they name."""
    if isinstance(described, list):
        return [_whole(item, parts) for item in described]
    if not isinstance(described, dict):
        return described
    if "$ref" in described:
        return _whole(parts[described["$ref"].rpartition("/")[2]], parts)
    return {name: _whole(value, parts) for name, value in described.items()}
