"""A stand-in for AsyncLLM that answers at once, and a real HTTP server on it."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import uvicorn

from pagoda.config import EngineConfig
from pagoda.engine.messages import EngineStats
from pagoda.outputs import (
    CompletionOutput,
    Logprob,
    RequestMetrics,
    RequestOutput,
    TokenLogprobs,
)
from pagoda.platform.errors import EngineDead, InvalidValue, QueueFull
from pagoda.sampling.params import RequestOutputKind, SamplingParams, check_against
from pagoda.server.app import create_app
from pagoda.server.settings import ServerSettings
from pagoda.tokenizer.chat import render

BOS, EOS, FIRST_BYTE = 1, 2, 3
VOCAB = FIRST_BYTE + 256
CONTEXT = 512
REPLY = "Hello world"
TEMPLATE = """\
{% for message in messages %}
{% if message.role == 'martian' %}{{ raise_exception('no Martians') }}{% endif %}
{{ message.role }}: {{ message.content }}
{% endfor %}
{% if add_generation_prompt %}assistant: {% endif %}"""


class FakeTokenizer:
    """One token a byte, and a template that shows what it was given."""

    eos_token_ids = (EOS,)
    longest_piece = 4

    def __init__(self) -> None:
        self.rendered: dict[str, Any] = {}

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        ids = [byte + FIRST_BYTE for byte in text.encode()]
        return [BOS, *ids] if add_special_tokens else ids

    def text_starts(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [*([0] if add_special_tokens else []), *range(len(text))]

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        text = bytes(i - FIRST_BYTE for i in ids if i >= FIRST_BYTE).decode("utf-8", "replace")
        special = "" if skip_special_tokens else "<s>" * ids.count(BOS) + "</s>" * ids.count(EOS)
        return special + text

    def token_text(self, token_id: int) -> str:
        return self.decode([token_id], skip_special_tokens=False)

    def text_stream(self, before: Sequence[int], skip_special_tokens: bool) -> SimpleNamespace:
        return SimpleNamespace(
            push=lambda token: self.decode([token], skip_special_tokens), likely=lambda: ""
        )

    def render_chat(self, messages: list[dict[str, Any]], **given: Any) -> str:
        self.rendered = {"messages": messages, **given}
        arguments = (given[name] for name in ("add_generation_prompt", "tools", "variables"))
        return render(TEMPLATE, messages, *arguments, given["continue_final_message"])


class FakeLLM:
    """Replies REPLY to every prompt.  Words in the prompt make it misbehave: see ``_misbehave``."""

    def __init__(self, **defaults: Any) -> None:
        self.config = EngineConfig(model="fake/model", max_queue=20, scheduling_policy="priority")
        self.info = SimpleNamespace(vocab_size=VOCAB, max_model_len=CONTEXT, max_num_seqs=12)
        self.tokenizer = FakeTokenizer()
        self.client = SimpleNamespace(tokenizer=self.tokenizer, default_sampling=defaults)
        self.stats = EngineStats(num_running=3, num_waiting=2, kv_usage=0.25, prefix_hits=7)
        self.dead_reason: str | None = None
        self.reply = REPLY
        self.seen: list[SimpleNamespace] = []
        self.running: set[str] = set()
        self.started = threading.Event()  # a request came
        self.aborted = threading.Event()  # a request was closed before its end, none is left

    @property
    def num_unfinished(self) -> int:
        return len(self.running)

    async def generate(
        self,
        prompt: list[int],
        params: SamplingParams,
        request_id: str,
        priority: int = 0,
        cache_salt: str = "",
    ) -> AsyncGenerator[RequestOutput, None]:
        if max(prompt) >= VOCAB:
            raise InvalidValue("prompt_token_ids", max(prompt), f"must be under {VOCAB}")
        check_against(
            params, VOCAB, num_prompt_tokens=len(prompt), max_model_len=self.info.max_model_len
        )
        self.seen.append(
            SimpleNamespace(prompt=prompt, params=params, priority=priority, salt=cache_salt)
        )
        text = self.tokenizer.decode(prompt)
        self.running.add(request_id)
        self.started.set()
        finished = False
        try:
            for step, output in enumerate(self._outputs(prompt, params, request_id)):
                await self._misbehave(text, step)
                yield output
                await asyncio.sleep(0)
            finished = True
        finally:
            self.running.discard(request_id)
            if not finished and not self.running:
                self.aborted.set()

    async def _misbehave(self, text: str, step: int) -> None:
        if "[full]" in text:
            raise QueueFull("20 requests are waiting already", "again later")
        if "[dead]" in text or ("[dies]" in text and step == 2):
            raise EngineDead("the engine process was killed by SIGKILL")
        if "[bug]" in text:
            raise ZeroDivisionError("a secret")
        if "[stuck]" in text or ("[stalls]" in text and step == 2):
            await asyncio.Event().wait()

    def _outputs(
        self, prompt: list[int], params: SamplingParams, request_id: str
    ) -> Iterator[RequestOutput]:
        ids = [*self.tokenizer.encode(self.reply, add_special_tokens=False), EOS]
        reason = "stop"
        if params.max_tokens is not None and params.max_tokens < len(ids):
            ids, reason = ids[: params.max_tokens], "length"
        began = time.monotonic()
        steps = [ids] if params.output_kind is RequestOutputKind.FINAL_ONLY else [[i] for i in ids]
        for step, tokens in enumerate(steps):
            last = step == len(steps) - 1
            yield RequestOutput(
                request_id=request_id,
                prompt=None,
                prompt_token_ids=prompt,
                outputs=[
                    CompletionOutput(
                        index=index,
                        text=self.tokenizer.decode(tokens),
                        token_ids=tokens,
                        logprobs=self._logprobs(tokens, params.logprobs),
                        finish_reason=reason if last else None,
                    )
                    for index in range(params.n)
                ],
                finished=last,
                prompt_logprobs=self._prompt_logprobs(prompt, params.prompt_logprobs),
                num_cached_tokens=1,
                metrics=RequestMetrics(began, time_in_queue=0.25, first_token_time=began + 1),
            )

    def _logprobs(self, ids: list[int], count: int | None) -> list[TokenLogprobs] | None:
        """Each token at -1, likelier ones of other bytes at -0.5, -0.25 and so on."""
        if count is None:
            return None
        positions = []
        for token in ids:
            position = {token: Logprob(-1.0, count + 1, self.tokenizer.token_text(token))}
            for k in range(count):
                other = FIRST_BYTE + k
                position[other] = Logprob(-(0.5 ** (k + 1)), count - k, chr(k))
            positions.append(position)
        return positions

    def _prompt_logprobs(
        self, ids: list[int], count: int | None
    ) -> list[TokenLogprobs | None] | None:
        scored = self._logprobs(ids[1:], count)
        return None if scored is None else [None, *scored]


class Running:
    """A server on a free port, in a thread."""

    def __init__(self, llm: FakeLLM, settings: ServerSettings):
        self.llm = llm
        self.app = create_app(llm, settings)  # type: ignore[arg-type]
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        config = uvicorn.Config(
            self.app, lifespan="off", log_level="critical", root_path=settings.root_path
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._listener],))
        self._thread.start()
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=20)

    def complete(self, prompt: Any = "Hi", **fields: Any) -> httpx.Response:
        return self.http.post("/v1/completions", json={"prompt": prompt, **fields})

    def chat(self, content: Any = "Hi", **fields: Any) -> httpx.Response:
        messages = [{"role": "user", "content": content}]
        return self.http.post("/v1/chat/completions", json={"messages": messages, **fields})

    def stop(self) -> None:
        """Begin to end; ``join`` waits for it."""
        self._server.should_exit = self._server.force_exit = True

    def join(self) -> None:
        self._thread.join()
        self.http.close()
        self._listener.close()


Serve = Callable[..., Running]


@pytest.fixture(scope="module")
def serve() -> Iterator[Serve]:
    """Start a server; keyword arguments are ServerSettings."""
    started: list[Running] = []

    def start(llm: FakeLLM | None = None, **settings: Any) -> Running:
        started.append(Running(llm or FakeLLM(), ServerSettings(**settings)))
        return started[-1]

    yield start
    for server in started:
        server.stop()
    for server in started:
        server.join()


@pytest.fixture(scope="module")
def server(serve: Serve) -> Running:
    """A server with default settings, shared by a module's tests."""
    return serve()


@pytest.fixture
def fake_llm() -> Callable[..., FakeLLM]:
    """Make a FakeLLM; keyword arguments are its default sampling parameters."""
    return FakeLLM
