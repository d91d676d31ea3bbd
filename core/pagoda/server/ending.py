"""Answers that the server's end cuts off: told so in the words of the API, instead of dropped."""

from __future__ import annotations

import asyncio
import contextlib

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pagoda.server.errors import RequestError
from pagoda.server.stream import LAST_EVENT, event

MESSAGE = "the server stopped before the answer was complete"
HEADERS = {"Retry-After": "1", "Connection": "close"}


class CutOff:
    """An ASGI application whose requests, when their task is cancelled, still end well: with a 503
    where no answer was begun, with an error event where one is streamed."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun: Message | None = None

        async def note(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = message
            await send(message)

        try:
            await self.app(scope, receive, note)
        except asyncio.CancelledError:
            error = RequestError(503, MESSAGE, code="server_stopped", headers=HEADERS)
            with contextlib.suppress(asyncio.CancelledError):  # nobody reads any more
                if begun is None:
                    await error.response()(scope, receive, send)
                elif _is_stream(begun):
                    last = event(error.body()) + LAST_EVENT
                    await send({"type": "http.response.body", "body": last})


def _is_stream(begun: Message) -> bool:
    kinds = [value for name, value in begun["headers"] if name == b"content-type"]
    return any(kind.startswith(b"text/event-stream") for kind in kinds)
