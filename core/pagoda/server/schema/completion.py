"""The request of ``/v1/completions``."""

from __future__ import annotations

from pydantic import model_validator

from pagoda.platform.errors import InvalidValue
from pagoda.server.schema.fields import EmptyOnly, Int, OneOnly, Prompts
from pagoda.server.schema.generation import GenerationRequest

DEFAULT_MAX_TOKENS = 16


class CompletionRequest(GenerationRequest):
    """Continue one or more prompts."""

    prompt: Prompts
    echo: bool | None = None  # the answer begins with the prompt
    logprobs: Int | None = None  # alternatives a token; 0: the chosen one alone
    add_special_tokens: bool = True
    suffix: EmptyOnly = None
    best_of: OneOnly = None

    @model_validator(mode="after")
    def _scores(self) -> CompletionRequest:
        if self.logprobs is not None and self.logprobs < 0:
            raise InvalidValue("logprobs", self.logprobs, "must be at least 0")
        return self

    @property
    def scores_only(self) -> bool:
        """``max_tokens`` 0 with ``echo``: the prompt is wanted back, nothing after it."""
        return bool(self.echo) and self.max_tokens == 0
