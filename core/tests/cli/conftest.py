"""A stand-in for LLM: the command line's own work needs no engine."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from pagoda.outputs import CompletionOutput, Logprob, RequestOutput
from pagoda.platform.errors import InvalidValue
from pagoda.sampling.params import RequestOutputKind, SamplingParams


class Info(msgspec.Struct):
    """What commands read of an engine's own description."""

    vocab_size: int = 600
    max_model_len: int = 64


class FakeTokenizer:
    """A token a character."""

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [ord(c) for c in text]

    def render_chat(self, messages: list[dict[str, str]], chat_template: str | None = None) -> str:
        return (chat_template or "") + "|".join(f"{m['role']}:{m['content']}" for m in messages)


class FakeLLM:
    """Continues every prompt with the prompt itself, in capitals, one character a step."""

    def __init__(self, model: str = "", **settings: Any):
        self.settings = {"model": model, **settings}
        self.info = Info()
        self.calls: list[tuple[Any, Any]] = []
        self.closed = False

    def __enter__(self) -> FakeLLM:
        return self

    def __exit__(self, *exception: object) -> None:
        self.closed = True

    def get_default_sampling_params(self) -> SamplingParams:
        return SamplingParams(top_p=0.75)

    def get_tokenizer(self) -> FakeTokenizer:
        return FakeTokenizer()

    def stream(self, prompt: dict[str, Any], params: SamplingParams) -> Iterator[RequestOutput]:
        self.calls.append((prompt, params))
        assert params.output_kind is RequestOutputKind.DELTA
        if prompt.get("prompt") == "":
            raise InvalidValue("prompt", "", "must have at least one token")
        for c in self.answer(prompt):
            yield self.output(prompt, params, c)

    def generate(
        self, prompts: list[dict[str, Any]], params: Any, use_tqdm: bool = True
    ) -> list[RequestOutput]:
        self.calls.append((prompts, params))
        each = params if isinstance(params, list) else [params] * len(prompts)
        return [self.output(p, q, self.answer(p)) for p, q in zip(prompts, each, strict=True)]

    def answer(self, prompt: dict[str, Any]) -> str:
        return "".join(map(chr, self.ids(prompt))).upper()

    def ids(self, prompt: dict[str, Any]) -> list[int]:
        return prompt.get("prompt_token_ids") or [ord(c) for c in prompt["prompt"]]

    def output(self, prompt: dict[str, Any], params: SamplingParams, text: str) -> RequestOutput:
        ids = [ord(c) for c in text]
        logprobs = None
        if params.logprobs is not None:
            logprobs = [{token: Logprob(-0.5, 1, chr(token))} for token in ids]
        outputs = [
            CompletionOutput(i, text, ids, logprobs=logprobs, finish_reason="length")
            for i in range(params.n)
        ]
        return RequestOutput(
            "0", prompt.get("prompt"), self.ids(prompt), outputs, True, num_cached_tokens=3
        )


@pytest.fixture
def fake_llm() -> type[FakeLLM]:
    """The class, for tests that change what it does."""
    return FakeLLM


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[FakeLLM]:
    """The FakeLLMs that commands made instead of LLMs."""
    made: list[FakeLLM] = []

    def make(**settings: Any) -> FakeLLM:
        made.append(FakeLLM(**settings))
        return made[-1]

    module = types.ModuleType("pagoda.llm")
    module.LLM = make  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pagoda.llm", module)
    return made
