"""The online API: the engine in a process of its own, requests as async generators."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Iterable, Sequence

import zmq.asyncio

from pagoda.config import EngineConfig
from pagoda.engine.child import EngineProcess, from_child, to_child
from pagoda.engine.client import Client, Prompt
from pagoda.engine.messages import Abort, EngineOutputs, EngineRequest, EngineStats, Failed
from pagoda.outputs import RequestOutput
from pagoda.platform.errors import (
    EngineDead,
    InvalidValue,
    PagodaError,
    QueueFull,
    UnsupportedFeature,
)
from pagoda.sampling.params import SamplingParams

LONG_PROMPT = 20_000
"""Characters from which tokenizing goes to a thread, so that other requests keep streaming."""


class AsyncLLM:
    """A model served to many callers of one event loop at a time.  Make it with ``from_config``."""

    def __init__(self, config: EngineConfig, process: EngineProcess):
        self.config = config
        self.info = process.wait_until_ready()
        self.client = Client(config, self.info)
        self.stats = EngineStats()
        self._process = process
        self._dead_reason: str | None = None
        self._queues: dict[str, asyncio.Queue[RequestOutput | PagodaError]] = {}
        self._socket: zmq.asyncio.Socket | None = None
        self._receiver: asyncio.Task[None] | None = None
        self._compiling = asyncio.Lock()
        self._closed = False

    @classmethod
    def from_config(cls, config: EngineConfig) -> AsyncLLM:
        """Start the engine process and block until its model is loaded.  Raises PagodaError with
        the process's own reason."""
        return cls(config, EngineProcess(config))

    @property
    def dead_reason(self) -> str | None:
        """Why the engine cannot serve any more; None while it can."""
        if self._dead_reason is None and self._process.ended:
            self._dead_reason = self._process.how_it_ended()
        return self._dead_reason

    @property
    def num_unfinished(self) -> int:
        return len(self._queues)

    async def generate(
        self,
        prompt: Prompt,
        sampling_params: SamplingParams,
        request_id: str,
        priority: int = 0,
        cache_salt: str = "",
    ) -> AsyncGenerator[RequestOutput]:
        """Yield outputs as sampling_params.output_kind asks; closing the generator aborts it.

        Raises InvalidValue or UnsupportedFeature before anything is queued, UnsupportedFeature
        too when a grammar leads to where no token is left, QueueFull when too many wait,
        EngineDead when the engine is or goes down."""
        if not isinstance(sampling_params, SamplingParams):
            raise InvalidValue("sampling_params", sampling_params, "must be SamplingParams")
        self._listen()
        if self.dead_reason is not None:
            raise EngineDead(self.dead_reason)
        waiting = self.client.num_sequences + sampling_params.n - self.info.max_num_seqs
        if waiting > self.config.max_queue:
            raise QueueFull(f"{self.config.max_queue} requests are waiting already", "again later")
        if isinstance(prompt, str) and len(prompt) > LONG_PROMPT:
            ids = await asyncio.to_thread(self.client.tokenizer.encode, prompt)
            prompt = {"prompt": prompt, "prompt_token_ids": ids}
        if sampling_params.structured_outputs is not None:
            async with self._compiling:  # may take a second: not in the way of other requests
                await asyncio.to_thread(
                    self.client.grammars.start, sampling_params.structured_outputs
                )
        requests = self.client.admit(request_id, prompt, sampling_params, priority, cache_salt)
        queue: asyncio.Queue[RequestOutput | PagodaError] = asyncio.Queue()
        self._queues[request_id] = queue
        try:
            await self._send(requests)
            while True:
                item = await queue.get()
                if isinstance(item, PagodaError):
                    raise item
                if item.error is not None:  # its wishes led to where no token is left
                    raise UnsupportedFeature(item.error)
                yield item
                if item.finished:
                    return
        finally:
            self._forget(request_id)

    async def abort(self, request_id: str) -> None:
        """Stop a request; whoever waits for it gets an error."""
        queue = self._queues.get(request_id)
        self._forget(request_id)
        if queue is not None:
            queue.put_nowait(PagodaError(f"request {request_id} was aborted"))

    def close(self) -> None:
        """End the engine process.  May be called more than once."""
        if self._closed:
            return
        self._closed = True
        self._dead_reason = self._dead_reason or "the engine was closed"
        if self._receiver is not None and not self._receiver.get_loop().is_closed():
            self._receiver.cancel()
        self._process.close()

    def _listen(self) -> None:
        """Start receiving, on a loop's first request: only now is the event loop known."""
        if (
            self._receiver is not None
            and self._receiver.get_loop() is not asyncio.get_running_loop()
        ):
            if not self._receiver.get_loop().is_closed():
                raise PagodaError("this AsyncLLM serves another event loop", "another AsyncLLM")
            self._receiver, self._compiling = None, asyncio.Lock()
        if self._receiver is None and self.dead_reason is None:
            self._socket = zmq.asyncio.Socket.shadow(self._process.socket)
            self._receiver = asyncio.create_task(self._receive(self._socket))
            # A loop that is closed takes it along unfinished: no cause to complain.  Python 3.10
            # would never end to (the repr of pyzmq's futures leads back to themselves).
            self._receiver._log_destroy_pending = False  # type: ignore[attr-defined]
            loop = asyncio.get_running_loop()
            threading.Thread(target=self._watch, args=(loop,), daemon=True).start()

    async def _receive(self, socket: zmq.asyncio.Socket) -> None:
        try:
            while True:
                message = from_child.decode(await socket.recv())
                if isinstance(message, Failed):
                    return self._die(message.message)
                if isinstance(message, EngineOutputs):
                    self.stats = message.stats
                    ready, aborts = self.client.process(message)
                    self._abort_in_engine(aborts)
                    for output in ready:
                        queue = self._queues.get(output.request_id)
                        if queue is not None:
                            queue.put_nowait(output)
        except Exception as error:  # nobody awaits this task: the callers must hear of it
            self._die(f"reading from the engine process failed: {error!r}")

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """In a thread: notice the end of the process, however it came."""
        reason = self._process.how_it_ended()
        if not self._closed and not loop.is_closed():
            # A moment for the process's own account, which says more, to be read first.
            loop.call_soon_threadsafe(loop.call_later, 0.5, self._die, reason)

    def _die(self, reason: str) -> None:
        if self._dead_reason is not None:
            return
        self._dead_reason = reason
        for queue in self._queues.values():
            queue.put_nowait(EngineDead(reason))

    async def _send(self, messages: Iterable[EngineRequest | Abort]) -> None:
        if self._socket is None or self._dead_reason is not None:
            raise EngineDead(self._dead_reason or "the engine was not started")
        for message in messages:
            await self._socket.send(to_child(message))

    def _forget(self, request_id: str) -> None:
        """Drop a request wherever it still is."""
        self._queues.pop(request_id, None)
        self._abort_in_engine(self.client.abort(request_id))

    def _abort_in_engine(self, engine_ids: Sequence[str]) -> None:
        if engine_ids and self._socket is not None and self._dead_reason is None:
            # An unbounded send queue: never blocks, so it may be sent from a finally block.
            self._process.socket.send(to_child(Abort(request_ids=list(engine_ids))))
