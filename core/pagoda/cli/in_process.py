"""Ask an ASGI application in this process, without a socket: the server's own routes and errors,
for commands that need no server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from starlette.types import ASGIApp, Message

log = logging.getLogger("pagoda.cli")


async def post(
    app: ASGIApp, path: str, body: bytes, headers: Mapping[str, str]
) -> tuple[int, bytes]:
    """The status and body that ``app`` answers a POST with."""
    named = {"content-type": "application/json", "content-length": str(len(body)), **headers}
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in named.items()],
        "client": None,
        "server": None,
    }
    sent = False
    status = 500
    parts: list[bytes] = []

    async def receive() -> Message:
        nonlocal sent
        if sent:  # the client stays until it is answered
            await asyncio.Event().wait()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        else:
            parts.append(message.get("body", b""))

    try:
        await app(scope, receive, send)
    except Exception:
        # The application has answered 500 by now; one request's failure is not the others'.
        log.exception("POST %s failed", path)
    return status, b"".join(parts)
