"""The request of ``/v1/chat/completions`` and the messages in it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pagoda.platform.errors import InvalidValue
from pagoda.server.schema.fields import Absent, Ignored, Int, TextOnly
from pagoda.server.schema.generation import GenerationRequest
from pagoda.server.tools import ForcedCalls, TaggedCalls, ToolReader, forced_schema


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
        if "documents" in (self.chat_template_kwargs or {}):
            raise InvalidValue("chat_template_kwargs", "documents", "is a field of the request")
        for i, tool in enumerate(self.tools or ()):
            function = tool.get("function")
            if not isinstance(function, dict) or not isinstance(function.get("name"), str):
                raise InvalidValue(f"tools[{i}].function.name", None, "must be a string")
        return self

    def conversation(self) -> list[dict[str, Any]]:
        """The messages with their fields checked; content is text, text parts or None."""
        return [_checked(message, f"messages[{i}]") for i, message in enumerate(self.messages)]

    def unfinished(self) -> str:
        """The text of the last message."""
        content = self.conversation()[-1]["content"]
        if isinstance(content, list):
            return "\n".join(part["text"] for part in content)
        return content or ""

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
    parallel_tool_calls: bool | None = None  # false: at most one call
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
        choice = self.tool_choice
        if choice in (None, "none", "auto"):
            return self
        names = [function["name"] for function in self._functions()]
        if choice != "required" and self._forced_name() is None:
            allowed = "must be none, auto, required, or an object with type and function.name"
            raise InvalidValue("tool_choice", choice, allowed)
        if not names or (choice != "required" and self._forced_name() not in names):
            allowed = f"must be one of the tools: {', '.join(names) or 'there are none'}"
            raise InvalidValue("tool_choice", self._forced_name() or choice, allowed)
        return self

    def forced(self) -> dict[str, dict[str, Any]]:
        if self.tool_choice in (None, "none", "auto"):
            return {}
        parallel = self.parallel_tool_calls is not False
        schema = forced_schema(self._functions(), self._forced_name(), parallel)
        return {"tool_choice": {"json": schema, "whitespace_pattern": " ?"}}  # on one line

    def tool_reader(self) -> ToolReader | None:
        """What takes the calls out of one answer; None where there can be none."""
        if not self.tools or self.tool_choice == "none":
            return None
        if self.tool_choice in (None, "auto"):
            return TaggedCalls(self.parallel_tool_calls is not False)
        return ForcedCalls(self._forced_name())

    def _functions(self) -> list[dict[str, Any]]:
        return [tool["function"] for tool in self.tools or ()]

    def _forced_name(self) -> str | None:
        """The one function that must be called; None for any, or where the choice is malformed."""
        choice = self.tool_choice
        function = choice.get("function") if isinstance(choice, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        return name if isinstance(name, str) and choice.get("type") == "function" else None

    def template_variables(self) -> dict[str, Any]:
        effort = self.reasoning_effort
        more = {} if effort is None else {"reasoning_effort": effort}
        return {**more, **super().template_variables()}

    def field_names(self) -> dict[str, str]:
        names = {**super().field_names(), "logprobs": "top_logprobs"}
        names |= {"prompt": "messages", "prompt_token_ids": "messages"}
        if self.forced():
            names["structured_outputs.json"] = "tools"
        if self.max_completion_tokens is not None:
            names["max_tokens"] = "max_completion_tokens"
        return names


def _checked(message: Message, where: str) -> dict[str, Any]:
    fields = message.model_dump(exclude_unset=True)
    for i, call in enumerate(message.tool_calls or ()):
        function = call.get("function")
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            name = f"{where}.tool_calls[{i}].function.name"
            raise InvalidValue(name, None, "must be a string")
    if message.content is None and not message.tool_calls:
        raise InvalidValue(f"{where}.content", None, "this field is required")
    fields["content"] = _content(message.content, f"{where}.content")
    return fields


def _content(content: Any, where: str) -> str | list[dict[str, str]] | None:
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InvalidValue(where, content, "must be a string or a list of content parts")
    parts = []
    for i, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in ("text", "refusal"):
            allowed = "only content parts of type 'text' are supported by this server"
            raise InvalidValue(f"{where}[{i}].type", kind, allowed)
        if not isinstance(part.get(kind), str):
            raise InvalidValue(f"{where}[{i}].{kind}", part.get(kind), "must be a string")
        parts.append({"type": "text", "text": part[kind]})
    return parts
