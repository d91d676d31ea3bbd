"""What completions and chat completions have in common, and how it becomes SamplingParams."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from pagoda.platform.errors import InvalidValue
from pagoda.sampling.params import RequestOutputKind, SamplingParams, StructuredOutputsParams
from pagoda.server.schema.fields import (
    Biases,
    FalseOnly,
    Ignored,
    Int,
    OneOnly,
    RequestModel,
    Stops,
    TokenIds,
)

GUIDED = ("json", "regex", "choice", "grammar")
"""Kinds of structured output that have a ``guided_`` field."""


class StreamOptions(RequestModel):
    """What a stream tells besides the text."""

    include_usage: bool | None = None  # a last chunk with the usage
    continuous_usage_stats: bool | None = None  # the usage so far in every chunk
    include_obfuscation: Ignored = None


class JsonSchema(RequestModel):
    """A JSON schema as OpenAI wraps it."""

    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | bool | None = Field(None, alias="schema")
    strict: bool | None = None  # always kept to here


class ResponseFormat(RequestModel):
    """OpenAI's way to ask for JSON."""

    type: str
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _complete(self) -> ResponseFormat:
        if self.type not in ("text", "json_object", "json_schema"):
            allowed = "must be one of text, json_object, json_schema"
            raise InvalidValue("response_format.type", self.type, allowed)
        if self.type == "json_schema" and self.json_schema is None:
            raise InvalidValue("response_format.json_schema", None, "is required with this type")
        if self.json_schema is not None and self.json_schema.schema_ is None:
            raise InvalidValue("response_format.json_schema.schema", None, "is required")
        return self

    def constraint(self) -> dict[str, Any]:
        """The StructuredOutputsParams field that says the same; none for plain text."""
        if self.type == "json_schema" and self.json_schema is not None:
            return {"json": self.json_schema.schema_}
        return {"json_object": True} if self.type == "json_object" else {}


class SamplingFields(RequestModel):
    """Fields that go to SamplingParams under their own names.  None or absent: the model's
    default, then vLLM's."""

    n: Int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: Int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    seed: Int | None = None
    stop: Stops | None = None
    stop_token_ids: TokenIds | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    max_tokens: Int | None = None
    min_tokens: Int | None = None
    prompt_logprobs: Int | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    logit_bias: Biases | None = None
    allowed_token_ids: TokenIds | None = None
    bad_words: list[str] | None = None

    def chosen(self) -> dict[str, Any]:
        """The fields of SamplingParams that the request gives a value."""
        values = {name: getattr(self, name) for name in SamplingFields.model_fields}
        return {name: value for name, value in values.items() if value is not None}


class GenerationRequest(SamplingFields):
    """Everything that both generating routes take."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: dict[str, Any] | None = None
    guided_json: str | dict[str, Any] | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    guided_whitespace_pattern: str | None = None
    truncate_prompt_tokens: Int | None = None  # keep the last so many; -1: what the model takes
    priority: Int | None = None  # lower runs earlier
    cache_salt: str | None = Field(None, min_length=1, max_length=1024)
    request_id: str | None = Field(None, max_length=200)  # part of the answer's id
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None  # "token_id:123" for a token's text
    user: Ignored = None
    metadata: Ignored = None
    store: Ignored = None
    service_tier: Ignored = None
    use_beam_search: FalseOnly = None
    length_penalty: OneOnly = None

    @model_validator(mode="after")
    def _agree(self) -> GenerationRequest:
        if self.stream_options is not None and not self.stream:
            raise InvalidValue("stream_options", "...", "is only for requests with stream=true")
        if self.stream and self.prompt_logprobs is not None:
            allowed = "cannot be streamed; use stream=false"
            raise InvalidValue("prompt_logprobs", self.prompt_logprobs, allowed)
        keep = self.truncate_prompt_tokens
        if keep is not None and keep != -1 and keep < 1:
            raise InvalidValue("truncate_prompt_tokens", keep, "must be at least 1, or -1")
        return self

    def reports_usage(self) -> tuple[bool, bool]:
        """Whether a stream ends with the usage, and whether every chunk tells it."""
        options = self.stream_options or StreamOptions()
        last = bool(options.include_usage)
        return last, last and bool(options.continuous_usage_stats)

    def sampling(self, defaults: Mapping[str, Any], **own: Any) -> SamplingParams:
        """The parameters: the route's ``own``, the request's, then the model's ``defaults``.
        Raises InvalidValue in the request's words."""
        known = {k: v for k, v in defaults.items() if k in SamplingParams.__struct_fields__}
        kind = RequestOutputKind.DELTA if self.stream else RequestOutputKind.FINAL_ONLY
        fields = {**known, **self.chosen(), **own, "output_kind": kind}
        try:
            return SamplingParams(**fields, structured_outputs=self._structured_outputs())
        except InvalidValue as error:
            raise self.in_its_words(error) from error

    def _structured_outputs(self) -> StructuredOutputsParams | None:
        wishes = self.forced()
        if self.response_format is not None and self.response_format.type != "text":
            wishes["response_format"] = self.response_format.constraint()
        if self.structured_outputs is not None:
            wishes["structured_outputs"] = self.structured_outputs
        for kind in GUIDED:
            if (value := getattr(self, f"guided_{kind}")) is not None:
                wishes[f"guided_{kind}"] = {kind: value}
        pattern = self.guided_whitespace_pattern
        if not wishes:
            if pattern is not None:
                raise InvalidValue("guided_whitespace_pattern", pattern, "is only for JSON output")
            return None
        (first, wish), *others = wishes.items()
        if others:
            raise InvalidValue(others[0][0], others[0][1], f"cannot be used beside {first}")
        extra = {} if pattern is None else {"whitespace_pattern": pattern}
        return StructuredOutputsParams(**{**wish, **extra})

    def forced(self) -> dict[str, dict[str, Any]]:
        """What a field of one route alone forces the output to be, by the field's name."""
        return {}

    def in_its_words(self, error: InvalidValue) -> InvalidValue:
        """The error with the name that this request has for the engine's field."""
        return InvalidValue(
            self.field_names().get(error.field, error.field), error.value, error.allowed
        )

    def field_names(self) -> dict[str, str]:
        """The engine's field names to this request's, where they differ."""
        names = {"prompt_token_ids": "prompt"}
        if self.response_format is not None:
            names["structured_outputs.json"] = "response_format.json_schema.schema"
        for kind in GUIDED:
            if getattr(self, f"guided_{kind}") is not None:
                names[f"structured_outputs.{kind}"] = f"guided_{kind}"
        return names
