"""``/v1/completions``: prompts continued, whole or as a stream."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator

from fastapi import Request, Response
from msgspec import UNSET

from pagoda.outputs import CompletionOutput, RequestOutput, TokenLogprobs
from pagoda.sampling.params import SamplingParams
from pagoda.server import body, logprobs
from pagoda.server.schema.answers import Completion, CompletionChoice
from pagoda.server.schema.completion import DEFAULT_MAX_TOKENS, CompletionRequest
from pagoda.server.served import FINGERPRINT, ServedModel, engine_id, new_id, served_by
from pagoda.server.stream import answer_events, answer_whole, merged
from pagoda.server.usage import Tally

Outputs = AsyncGenerator[tuple[int, RequestOutput], None]
Scores = list[TokenLogprobs | None]


async def create(request: Request) -> Response:
    """The route."""
    served = served_by(request)
    wanted = await body.read(request, CompletionRequest, served.settings.max_body_bytes)
    model = served.check_name(wanted.model)
    served.check_count(len(wanted.prompt), wanted.n)
    prompts = [await _tokens(served, wanted, prompt) for prompt in wanted.prompt]
    params = [_params(served, wanted, ids) for ids in prompts]
    answer = _Answer(served, wanted, model, new_id("cmpl", request, wanted), prompts, params)
    if wanted.echo and wanted.logprobs is not None:
        for i, prompt in enumerate(wanted.prompt):
            if isinstance(prompt, str) and wanted.truncate_prompt_tokens is None:
                answer.starts[i] = await served.text_starts(prompt, wanted.add_special_tokens)
    if wanted.stream:
        return await answer_events(request, answer.chunks())
    return await answer_whole(request, answer.whole())


async def _tokens(
    served: ServedModel, wanted: CompletionRequest, prompt: str | list[int]
) -> list[int]:
    if isinstance(prompt, str):
        if wanted.truncate_prompt_tokens is None:
            served.check_length(prompt, "prompt")
        prompt = await served.encode(prompt, wanted.add_special_tokens)
    return served.truncated(prompt, wanted.truncate_prompt_tokens)


def _params(served: ServedModel, wanted: CompletionRequest, ids: list[int]) -> SamplingParams:
    if wanted.scores_only:
        max_tokens = 1
    elif wanted.max_tokens is not None:
        max_tokens = wanted.max_tokens
    elif "max_tokens" not in wanted.model_fields_set:
        max_tokens = min(DEFAULT_MAX_TOKENS, served.room(ids))
    else:
        max_tokens = served.default_max_tokens(ids)  # null: as many as there can be
    own = {"max_tokens": max_tokens, "logprobs": wanted.logprobs}
    if wanted.echo and wanted.logprobs is not None and wanted.prompt_logprobs is None:
        own["prompt_logprobs"] = wanted.logprobs
    return wanted.sampling(served.defaults, **own)


class _Answer:
    """One request's outputs as OpenAI's completion objects."""

    def __init__(
        self,
        served: ServedModel,
        wanted: CompletionRequest,
        model: str,
        id: str,
        prompts: list[list[int]],
        params: list[SamplingParams],
    ):
        self.served = served
        self.wanted = wanted
        self.model = model
        self.prompts = prompts
        self.params = params
        self.id = id
        self.created = int(time.time())
        self.texts = served.texts(wanted.return_tokens_as_token_ids)
        self.tally = Tally()
        self.starts: dict[int, list[int]] = {}  # of the tokens of prompts echoed as they came
        self.offsets: dict[int, logprobs.Offsets] = {}  # of the choices that have begun

    def outputs(self) -> Outputs:
        return merged(
            [
                self.served.generate(ids, params, engine_id(self.id, i), self.wanted)
                for i, (ids, params) in enumerate(zip(self.prompts, self.params, strict=True))
            ]
        )

    async def whole(self) -> Completion:
        choices: dict[int, CompletionChoice] = {}
        async for which, output in self.outputs():
            self.tally.add(which, output, generated=not self.wanted.scores_only)
            for part in output.outputs:
                choice = self._choice(which, output, part)
                if self.wanted.prompt_logprobs is not None and output.prompt_logprobs:
                    choice.prompt_logprobs = logprobs.prompt_logprobs(
                        output.prompt_logprobs, self.texts
                    )
                choices[choice.index] = choice
        answer = self._object([choices[index] for index in sorted(choices)])
        answer.usage = self.tally.usage()
        return answer

    async def chunks(self) -> AsyncGenerator[Completion, None]:
        last, every = self.wanted.reports_usage()
        async for which, output in self.outputs():
            self.tally.add(which, output, generated=not self.wanted.scores_only)
            for part in output.outputs:
                choice = self._choice(which, output, part)
                if not (choice.text or choice.finish_reason or choice.logprobs or part.token_ids):
                    continue
                chunk = self._object([choice])
                if last:
                    chunk.usage = self.tally.usage() if every else None
                yield chunk
        if last:
            chunk = self._object([])
            chunk.usage = self.tally.usage()
            yield chunk

    def _object(self, choices: list[CompletionChoice]) -> Completion:
        return Completion(
            id=self.id,
            created=self.created,
            model=self.model,
            choices=choices,
            system_fingerprint=FINGERPRINT,
        )

    def _choice(
        self, which: int, output: RequestOutput, part: CompletionOutput
    ) -> CompletionChoice:
        """One choice, or its next piece; the first piece brings the echoed prompt."""
        wanted = self.wanted
        index = which * self.params[which].n + part.index
        first = index not in self.offsets
        if first:
            self.offsets[index] = self._offsets(which)
        text, token_ids, scores = part.text, part.token_ids, part.logprobs
        if wanted.scores_only:
            text, token_ids, scores = "", [], [] if scores is not None else None
        shown_ids = list(token_ids)
        shown_scores: Scores | None = None if scores is None else list(scores)
        if wanted.echo and first:
            text = self._prompt_text(which) + text
            shown_ids = self.prompts[which] + shown_ids
            if shown_scores is not None:
                shown_scores = [*(output.prompt_logprobs or []), *shown_scores]
        scored = None
        if shown_scores is not None:
            scored = logprobs.completion_logprobs(
                shown_ids, shown_scores, self.texts, self.offsets[index]
            )
        choice = CompletionChoice(
            index=index,
            text=text,
            logprobs=scored,
            finish_reason=part.finish_reason,
            stop_reason=part.stop_reason,
        )
        if wanted.return_token_ids:
            choice.token_ids = list(token_ids)
            choice.prompt_token_ids = self.prompts[which] if first else UNSET
        return choice

    def _offsets(self, which: int) -> logprobs.Offsets:
        starts = self.starts.get(which, [])
        before = self.prompts[which] if starts or not self.wanted.echo else ()
        skip = self.params[which].skip_special_tokens
        text = self.served.tokenizer.text_stream(before, skip)
        return logprobs.Offsets(text, starts, len(self._prompt_text(which)) if starts else 0)

    def _prompt_text(self, which: int) -> str:
        """The prompt as it was sent; token ids, or what truncation left, as text."""
        prompt = self.wanted.prompt[which]
        if isinstance(prompt, str) and self.wanted.truncate_prompt_tokens is None:
            return prompt
        skip = self.params[which].skip_special_tokens
        return self.served.tokenizer.decode(self.prompts[which], skip_special_tokens=skip)
