"""``/v1/chat/completions``: conversations answered, whole or as a stream."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import Request, Response
from msgspec import UNSET

from pagoda.outputs import CompletionOutput, RequestOutput
from pagoda.sampling.params import SamplingParams
from pagoda.server import body, logprobs
from pagoda.server.schema.answers import (
    ChatChoice,
    ChatCompletion,
    ChatDelta,
    ChatLogprobs,
    ChatMessage,
    ToolCall,
)
from pagoda.server.schema.chat import ChatRequest
from pagoda.server.served import FINGERPRINT, ServedModel, engine_id, new_id, served_by
from pagoda.server.stream import answer_events, answer_whole
from pagoda.server.usage import Tally

ROLE = "assistant"


async def create(request: Request) -> Response:
    """The route."""
    served = served_by(request)
    wanted = await body.read(request, ChatRequest, served.settings.max_body_bytes)
    model = served.check_name(wanted.model)
    served.check_count(1, wanted.n)
    text = await served.render(wanted)
    if wanted.truncate_prompt_tokens is None:
        served.check_length(text, "messages")
    ids = await served.encode(text, wanted.add_special_tokens)
    ids = served.truncated(ids, wanted.truncate_prompt_tokens)
    id = new_id("chatcmpl", request, wanted)
    answer = _Answer(served, wanted, model, id, ids, _params(served, wanted, ids))
    if wanted.stream:
        return await answer_events(request, answer.chunks())
    return await answer_whole(request, answer.whole())


def _params(served: ServedModel, wanted: ChatRequest, ids: list[int]) -> SamplingParams:
    chosen = wanted.max_completion_tokens
    max_tokens = wanted.max_tokens if chosen is None else chosen
    if max_tokens is None:
        max_tokens = served.default_max_tokens(ids)
    num_top = (wanted.top_logprobs or 0) if wanted.logprobs else None
    return wanted.sampling(served.defaults, max_tokens=max_tokens, logprobs=num_top)


class _Answer:
    """One request's outputs as OpenAI's chat objects."""

    def __init__(
        self,
        served: ServedModel,
        wanted: ChatRequest,
        model: str,
        id: str,
        ids: list[int],
        params: SamplingParams,
    ):
        self.served = served
        self.wanted = wanted
        self.model = model
        self.ids = ids
        self.params = params
        self.id = id
        self.created = int(time.time())
        self.texts = served.texts(wanted.return_tokens_as_token_ids)
        self.tally = Tally()
        self.readers = [wanted.tool_reader() for _ in range(params.n)]

    def outputs(self) -> AsyncGenerator[RequestOutput, None]:
        return self.served.generate(self.ids, self.params, engine_id(self.id, 0), self.wanted)

    async def whole(self) -> ChatCompletion:
        choices: dict[int, ChatChoice] = {}
        answer = self._object("chat.completion", [])
        async with aclosing(self.outputs()) as outputs:
            async for output in outputs:
                self.tally.add(0, output)
                for part in output.outputs:
                    text, calls = self._read(part)
                    choice = self._choice(part)
                    choice.message = ChatMessage(content=self._echo() + text)
                    if calls:
                        choice.message.content = choice.message.content or None
                        choice.message.tool_calls = calls
                    choices[part.index] = choice
                if self.wanted.prompt_logprobs is not None and output.prompt_logprobs:
                    scores = logprobs.prompt_logprobs(output.prompt_logprobs, self.texts)
                    answer.prompt_logprobs = scores
        answer.choices = [choices[index] for index in sorted(choices)]
        answer.usage = self.tally.usage()
        if self.wanted.return_token_ids:
            answer.prompt_token_ids = self.ids
        return answer

    async def chunks(self) -> AsyncGenerator[ChatCompletion, None]:
        begun = False
        async with aclosing(self.outputs()) as outputs:
            async for output in outputs:
                if not begun:
                    begun = True
                    self.tally.add(0, output, generated=False)
                    for index in range(self.params.n):
                        yield self._opening(index)
                self.tally.add(0, output)
                for part in output.outputs:
                    if part.text or part.finish_reason or part.token_ids:
                        yield self._chunk([self._next(part)])
        if self.wanted.reports_usage()[0]:
            chunk = self._chunk([])
            chunk.usage = self.tally.usage()
            yield chunk

    def _next(self, part: CompletionOutput) -> ChatChoice:
        """A choice's next piece."""
        reader = self.readers[part.index]
        first = 0 if reader is None else reader.num_calls
        text, calls = self._read(part)
        choice = self._choice(part)
        choice.delta = ChatDelta(content=text)
        if calls:
            for index, call in enumerate(calls, start=first):
                call.index = index
            choice.delta = ChatDelta(content=text or UNSET, tool_calls=calls)
        return choice

    def _read(self, part: CompletionOutput) -> tuple[str, list[ToolCall]]:
        """A piece of output as text, and the tool calls that it completes."""
        reader = self.readers[part.index]
        if reader is None:
            return part.text, []
        text, calls = reader.push(part.text)
        if part.finish_reason is not None:
            more, last = reader.finish()
            text, calls = text + more, calls + last
        return text, calls

    def _opening(self, index: int) -> ChatCompletion:
        """A choice's first chunk: who speaks, and the prompt's ids where wanted."""
        choice = ChatChoice(index=index, delta=ChatDelta(role=ROLE, content=self._echo()))
        chunk = self._chunk([choice])
        if self.wanted.return_token_ids and index == 0:
            chunk.prompt_token_ids = self.ids
        return chunk

    def _chunk(self, choices: list[ChatChoice]) -> ChatCompletion:
        chunk = self._object("chat.completion.chunk", choices)
        last, every = self.wanted.reports_usage()
        if last:
            chunk.usage = self.tally.usage() if every else None
        return chunk

    def _object(self, kind: str, choices: list[ChatChoice]) -> ChatCompletion:
        return ChatCompletion(
            id=self.id,
            object=kind,
            created=self.created,
            model=self.model,
            choices=choices,
            system_fingerprint=FINGERPRINT,
        )

    def _choice(self, part: CompletionOutput) -> ChatChoice:
        reader = self.readers[part.index]
        called = reader is not None and reader.num_calls and part.finish_reason == "stop"
        return ChatChoice(
            index=part.index,
            logprobs=self._scores(part),
            finish_reason="tool_calls" if called else part.finish_reason,
            stop_reason=part.stop_reason,
            token_ids=list(part.token_ids) if self.wanted.return_token_ids else UNSET,
        )

    def _scores(self, part: CompletionOutput) -> ChatLogprobs | None:
        if part.logprobs is None:
            return None
        num_top = self.wanted.top_logprobs or 0
        return logprobs.chat_logprobs(part.token_ids, part.logprobs, self.texts, num_top)

    def _echo(self) -> str:
        """The unfinished last message, where it is wanted back in front of its continuation."""
        if not self.wanted.echo or self.wanted.messages[-1].role != ROLE:
            return ""
        return self.wanted.unfinished()
