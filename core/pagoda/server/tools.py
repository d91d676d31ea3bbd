"""Tool calls: the JSON that a forced one must be, and the calls found in what a model writes."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from pagoda.platform.errors import InvalidValue
from pagoda.server.schema.answers import FunctionCall, ToolCall

OPEN, CLOSE = "<tool_call>", "</tool_call>"
"""Around each call as Hermes, Qwen and others are trained to write it: {"name", "arguments"}."""

Read = tuple[str, list[ToolCall]]
"""Text for the user, and calls that are whole."""


class ToolReader(Protocol):
    """Takes the calls out of one answer as it comes."""

    num_calls: int  # found so far

    def push(self, text: str) -> Read:
        """More of the answer; what may become a call is held back."""
        ...

    def finish(self) -> Read:
        """The rest."""
        ...


class TaggedCalls:
    """An answer that may be text, calls between tags, or both.  Tags with anything else between
    them are text; blanks around calls are nobody's."""

    def __init__(self, parallel: bool):
        self.num_calls = 0
        self._parallel = parallel  # else calls after the first are dropped
        self._held = ""

    def push(self, text: str) -> Read:
        self._held += text
        shown, calls = "", list[ToolCall]()
        while True:
            before, opened, rest = self._held.partition(OPEN)
            if not opened:
                end = _certain(before)
                self._held = before[end:]
                return shown + before[:end], calls
            inside, closed, after = rest.partition(CLOSE)
            if not closed:
                self._held = before[len(before.rstrip()) :] + OPEN + inside
                return shown + before.rstrip(), calls
            text, found = self._called(before, inside, OPEN + inside + CLOSE)
            shown, calls, self._held = shown + text, calls + found, after

    def finish(self) -> Read:
        before, opened, inside = self._held.partition(OPEN)
        self._held = ""
        if opened:  # the closing tag may have been the token that ended the answer
            return self._called(before, inside, OPEN + inside)
        return "" if self.num_calls else before, []

    def _called(self, before: str, inside: str, whole: str) -> Read:
        try:
            wanted = json.loads(inside)
        except (ValueError, RecursionError):
            wanted = None
        if not isinstance(wanted, dict) or not isinstance(wanted.get("name"), str):
            return before + whole, []
        self.num_calls += 1
        kept = self.num_calls == 1 or self._parallel
        return before.rstrip(), [_call(wanted)] if kept else []


class ForcedCalls:
    """An answer that a grammar made one call's arguments, or with no ``name`` a list of calls."""

    def __init__(self, name: str | None):
        self.num_calls = 0
        self._name = name
        self._text = ""

    def push(self, text: str) -> Read:
        self._text += text
        return "", []

    def finish(self) -> Read:
        if self._name is not None:
            calls = [_call({"name": self._name, "arguments": self._text.strip()})]
        else:
            try:
                calls = [_call(wanted) for wanted in json.loads(self._text)]
            except ValueError:  # cut short by max_tokens
                return self._text, []
        self.num_calls = len(calls)
        return "", calls


def forced_schema(
    functions: Sequence[Mapping[str, Any]], name: str | None, parallel: bool
) -> dict[str, Any]:
    """The JSON schema of the arguments of the function called ``name``, or else of a list of calls
    of any of them.  Raises InvalidValue for parameters that are no schema."""
    schemas: dict[str, Any] = {}
    for i, function in enumerate(functions):
        schema = function.get("parameters") or {"properties": {}, "additionalProperties": False}
        if not isinstance(schema, dict):
            raise InvalidValue(f"tools[{i}].function.parameters", schema, "must be a JSON schema")
        schemas[function["name"]] = {"type": "object", **schema}
    if name is not None:
        return {**schemas[name]}
    shared: dict[str, Any] = {}  # what parameters define for themselves is looked up at the root
    for function_name, schema in schemas.items():
        for part, defined in schema.pop("$defs", {}).items():
            if shared.setdefault(part, defined) != defined:
                allowed = f"{function_name} and another tool define it differently"
                raise InvalidValue("tools", f"$defs.{part}", allowed)
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": function_name}, "arguments": schema},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for function_name, schema in schemas.items()
    ]
    most = {} if parallel else {"maxItems": 1}
    return {"type": "array", "items": {"anyOf": calls}, "minItems": 1, **most, "$defs": shared}


def _call(wanted: Mapping[str, Any]) -> ToolCall:
    arguments = wanted.get("arguments", wanted.get("parameters", {}))
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return ToolCall(id=f"call_{uuid.uuid4().hex}", function=FunctionCall(wanted["name"], text))


def _certain(text: str) -> int:
    """Where the end of ``text`` begins that may turn out to be blanks before a call."""
    begun = next((n for n in range(len(OPEN) - 1, 0, -1) if text.endswith(OPEN[:n])), 0)
    return len(text[: len(text) - begun].rstrip())
