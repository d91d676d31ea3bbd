"""A small HTTP client on asyncio's streams, for load: one request a connection, the body as it
arrives.  It adds little of its own to what is measured."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from pagoda.platform.errors import PagodaError


class Endpoint:
    """A server, and what to say to it with every request."""

    def __init__(self, base_url: str, api_key: str | None = None, timeout_seconds: float = 600):
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise PagodaError(f"{base_url!r} is no HTTP address", "http://127.0.0.1:8000")
        self.base_url = base_url
        self.tls = parts.scheme == "https"
        self.host = parts.hostname
        self.port = parts.port or (443 if self.tls else 80)
        self.prefix = parts.path.rstrip("/").removesuffix("/v1")  # as OpenAI's clients write it
        self.timeout_seconds = timeout_seconds
        self.headers = {"Host": parts.netloc.rpartition("@")[2], "Connection": "close"}
        if api_key:
            self.headers["Authorization"] = f"Bearer {api_key}"

    async def get(self, path: str) -> Any:
        """The JSON answer to a GET."""
        return json.loads(b"".join([part async for part in self._request("GET", path, b"")]))

    async def post_events(self, path: str, body: Mapping[str, Any]) -> AsyncIterator[Any]:
        """The events of a streamed answer, each decoded, without the last one, [DONE]."""
        rest = b""
        async for part in self._request("POST", path, json.dumps(body).encode()):
            *lines, rest = (rest + part).split(b"\n")
            for line in lines:
                data = line.removeprefix(b"data:").strip() if line.startswith(b"data:") else b""
                if data and data != b"[DONE]":
                    yield json.loads(data)

    async def _request(self, method: str, path: str, body: bytes) -> AsyncIterator[bytes]:
        """The parts of the body as they come.  Raises PagodaError for anything but a 200."""
        try:
            reader, writer = await asyncio.open_connection(
                self.host, self.port, ssl=self.tls or None
            )
        except OSError as error:
            raise PagodaError(f"no server answers at {self.base_url}: {error}") from error
        try:
            headers = {**self.headers, "Content-Length": str(len(body))}
            if body:
                headers["Content-Type"] = "application/json"
            lines = [f"{method} {self.prefix}{path} HTTP/1.1"]
            lines += [f"{name}: {value}" for name, value in headers.items()]
            writer.write("\r\n".join([*lines, "", ""]).encode() + body)
            await writer.drain()
            status, chunked = await self._head(reader)
            parts = _chunks(reader) if chunked else _until_end(reader)
            if status != 200:
                text = b"".join([part async for part in parts]).decode(errors="replace")
                raise PagodaError(f"{method} {path} was answered {status}: {text[:500]}")
            while True:
                try:
                    yield await asyncio.wait_for(anext(parts), self.timeout_seconds)
                except StopAsyncIteration:
                    return
        except asyncio.TimeoutError as error:
            waited = f"{self.timeout_seconds:g} s"
            raise PagodaError(f"{method} {path}: nothing came for {waited}") from error
        except (OSError, asyncio.IncompleteReadError) as error:
            raise PagodaError(f"{method} {path}: the connection broke: {error}") from error
        finally:
            writer.close()

    async def _head(self, reader: asyncio.StreamReader) -> tuple[int, bool]:
        """The status, and whether the body comes in chunks."""
        line = await asyncio.wait_for(reader.readline(), self.timeout_seconds)
        try:
            status = int(line.split()[1])
        except (IndexError, ValueError):
            raise PagodaError(f"{self.base_url} does not speak HTTP: {line[:80]!r}") from None
        chunked = False
        while (line := await reader.readline()).strip():
            name, _, value = line.decode("latin-1").partition(":")
            chunked |= name.lower() == "transfer-encoding" and "chunked" in value.lower()
        return status, chunked


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while size := int((await reader.readline()).split(b";")[0] or b"0", 16):
        yield await reader.readexactly(size)
        await reader.readline()


async def _until_end(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while part := await reader.read(1 << 16):
        yield part
