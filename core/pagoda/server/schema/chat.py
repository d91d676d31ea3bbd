"""The request of ``/v1/chat/completions`` and the messages in it."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pagoda.platform.errors import InvalidValue
from pagoda.server.schema.fields import Absent, Ignored, Int, TextOnly
from pagoda.server.schema.generation import GenerationRequest

RESERVED = ("messages", "tools", "documents", "chat_template", "conversation", "tokenize")
"""Names in chat_template_kwargs that the request has fields for, or that templates never see."""


class Message(BaseModel):
    """One message.  What else it holds goes to the template: templates differ in what they read."""

    model_config = ConfigDict(extra="allow", strict=True)

    role: str = Field(min_length=1, max_length=64)
    content: Any = None
    tool_calls: list[dict[str, Any]] | None = None


class ChatFields(BaseModel):
    """What renders a conversation; chat completions and tokenize have these alike."""

    messages: list[Message] = Field(min_length=1)
    add_generation_prompt: bool = True
    continue_final_message: bool = False  # the last message is unfinished: go on with it
    add_special_tokens: bool = False  # on top of those that the template writes
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    documents: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None

    @model_validator(mode="after")
    def _renders(self) -> ChatFields:
        if self.continue_final_message and self.add_generation_prompt:
            allowed = "needs add_generation_prompt=false"
            raise InvalidValue("continue_final_message", True, allowed)
        for name in self.chat_template_kwargs or {}:
            if name in RESERVED or not name.isidentifier():
                raise InvalidValue("chat_template_kwargs", name, "is not a name that may be set")
        for i, tool in enumerate(self.tools or ()):
            function = tool.get("function")
            if not isinstance(function, dict) or not isinstance(function.get("name"), str):
                raise InvalidValue(f"tools[{i}].function.name", None, "must be a string")
        return self

    def conversation(self) -> list[dict[str, Any]]:
        """The messages as templates expect them: content as text, call arguments as objects."""
        return [_plain(message, f"messages[{i}]") for i, message in enumerate(self.messages)]

    def template_variables(self) -> dict[str, Any]:
        """What the template gets besides the messages and tools."""
        extra = {} if self.documents is None else {"documents": self.documents}
        return {**extra, **(self.chat_template_kwargs or {})}


class ChatRequest(ChatFields, GenerationRequest):
    """Answer a conversation."""

    max_completion_tokens: Int | None = None
    logprobs: bool | None = None
    top_logprobs: Int | None = None  # alternatives a token
    echo: bool | None = None  # the answer begins with the last message, when it is continued
    tool_choice: Any = None
    reasoning_effort: str | None = None  # for templates that read it
    parallel_tool_calls: Ignored = None
    prediction: Ignored = None
    prompt_cache_key: Ignored = None
    prompt_cache_options: Ignored = None
    prompt_cache_retention: Ignored = None
    safety_identifier: Ignored = None
    modalities: TextOnly = None
    audio: Absent = None
    function_call: Absent = None
    functions: Absent = None
    moderation: Absent = None
    verbosity: Absent = None
    web_search_options: Absent = None

    @model_validator(mode="after")
    def _scores(self) -> ChatRequest:
        if self.top_logprobs is not None and self.top_logprobs < 0:
            raise InvalidValue("top_logprobs", self.top_logprobs, "must be at least 0")
        if self.top_logprobs and not self.logprobs:
            raise InvalidValue("top_logprobs", self.top_logprobs, "needs logprobs=true")
        return self

    @model_validator(mode="after")
    def _chooses(self) -> ChatRequest:
        if self.tool_choice not in (None, "none", "auto"):
            allowed = "forced tool calls are not supported by this server; use none or auto"
            raise InvalidValue("tool_choice", self.tool_choice, allowed)
        return self

    def template_variables(self) -> dict[str, Any]:
        effort = self.reasoning_effort
        more = {} if effort is None else {"reasoning_effort": effort}
        return {**more, **super().template_variables()}

    def field_names(self) -> dict[str, str]:
        names = {**super().field_names(), "logprobs": "top_logprobs"}
        names |= {"prompt": "messages", "prompt_token_ids": "messages"}
        if self.max_completion_tokens is not None:
            names["max_tokens"] = "max_completion_tokens"
        return names


def _plain(message: Message, where: str) -> dict[str, Any]:
    fields = message.model_dump(exclude_unset=True)
    if message.content is not None:
        fields["content"] = _text(message.content, f"{where}.content")
    elif not message.tool_calls:
        raise InvalidValue(f"{where}.content", None, "this field is required")
    else:
        fields["content"] = None
    calls = fields.get("tool_calls")
    if calls:
        fields["tool_calls"] = [
            _call(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(calls)
        ]
    return fields


def _text(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InvalidValue(where, content, "must be a string or a list of content parts")
    texts = []
    for i, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in ("text", "refusal"):
            allowed = "only content parts of type 'text' are supported by this server"
            raise InvalidValue(f"{where}[{i}].type", kind, allowed)
        text = part.get(kind)
        if not isinstance(text, str):
            raise InvalidValue(f"{where}[{i}].{kind}", text, "must be a string")
        texts.append(text)
    return "\n".join(texts)


def _call(call: dict[str, Any], where: str) -> dict[str, Any]:
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise InvalidValue(f"{where}.function.name", None, "must be a string")
    arguments = function.get("arguments")
    if not isinstance(arguments, str):
        return call
    try:
        decoded = json.loads(arguments) if arguments.strip() else {}
    except (ValueError, RecursionError) as error:
        allowed = f"must be a JSON object as text: {error}"
        raise InvalidValue(f"{where}.function.arguments", arguments, allowed) from error
    return {**call, "function": {**function, "arguments": decoded}}
