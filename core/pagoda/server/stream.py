"""Outputs on their way to a client: several requests as one stream, server-sent events, and the
end of the work when the client is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import aclosing
from typing import TypeVar

import msgspec
from fastapi import Request, Response
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from pagoda.outputs import RequestOutput
from pagoda.server.errors import explained

T = TypeVar("T")


async def until_disconnect(work: Awaitable[T], receive: Receive) -> T:
    """The result of ``work``, cancelled when the client goes away: ClientDisconnect then."""
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        watch.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def merged(
    sources: Sequence[AsyncGenerator[RequestOutput, None]],
) -> AsyncGenerator[tuple[int, RequestOutput], None]:
    """The outputs of all ``sources`` as they come, each with its source's index.  The first
    failure ends them all."""
    if len(sources) == 1:
        async with aclosing(sources[0]) as source:
            async for output in source:
                yield 0, output
        return
    arrived: asyncio.Queue[tuple[int, RequestOutput | Exception | None]] = asyncio.Queue()

    async def pump(index: int, source: AsyncGenerator[RequestOutput, None]) -> None:
        try:
            async for output in source:
                arrived.put_nowait((index, output))
        except Exception as error:
            arrived.put_nowait((index, error))
        else:
            arrived.put_nowait((index, None))

    pumps = [asyncio.ensure_future(pump(i, source)) for i, source in enumerate(sources)]
    try:
        num_running = len(pumps)
        while num_running:
            index, item = await arrived.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                num_running -= 1
            else:
                yield index, item
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


class EventStream(StreamingResponse):
    """Server-sent events; closes its source when the client disconnects."""

    def __init__(self, lines: AsyncGenerator[bytes, None]):
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(lines, media_type="text/event-stream", headers=headers)
        self.lines = lines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await until_disconnect(self.stream_response(send), receive)
        except ClientDisconnect:
            pass
        finally:
            await self.lines.aclose()


async def answer_events(request: Request, chunks: AsyncGenerator[msgspec.Struct, None]) -> Response:
    """A stream of ``chunks``.  It begins when the first one is there: what fails before still
    gets an error status."""
    first = await until_disconnect(anext(chunks), request.receive)
    return EventStream(_events(first, chunks))


async def answer_whole(request: Request, work: Awaitable[msgspec.Struct]) -> Response:
    """The JSON of what ``work`` returns."""
    return json_response(await until_disconnect(work, request.receive))


def json_response(answer: msgspec.Struct) -> Response:
    return Response(msgspec.json.encode(answer), media_type="application/json")


async def _events(
    first: msgspec.Struct, chunks: AsyncGenerator[msgspec.Struct, None]
) -> AsyncGenerator[bytes, None]:
    yield event(msgspec.json.encode(first))
    try:
        async with aclosing(chunks):
            async for chunk in chunks:
                yield event(msgspec.json.encode(chunk))
    except Exception as error:
        yield event(explained(error).body())
    yield LAST_EVENT


def event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


LAST_EVENT = event(b"[DONE]")
