"""Tool calls: forced by a grammar, or found between tags; whole and streamed."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from pagoda.platform.errors import InvalidValue
from pagoda.server.tools import ForcedCalls, TaggedCalls, forced_schema

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": CITY}}
CLOCK = {"type": "function", "function": {"name": "clock"}}
TOOLS = [WEATHER, CLOCK]


def tagged(name: str, arguments: object) -> str:
    call = json.dumps({"name": name, "arguments": arguments})
    return f"<tool_call>\n{call}\n</tool_call>"


ROME, NOW = tagged("weather", {"city": "Rome"}), tagged("clock", {})
BOTH = [("weather", '{"city": "Rome"}'), ("clock", "{}")]


def read(reader: Any, pieces: list[str]) -> tuple[str, list[tuple[str, str]]]:
    found = [*map(reader.push, pieces), reader.finish()]
    calls = [call for _, some in found for call in some]
    assert len({call.id for call in calls}) == len(calls)
    shown = "".join(text for text, _ in found)
    return shown, [(call.function.name, call.function.arguments) for call in calls]


@pytest.mark.parametrize(
    ("text", "shown", "calls"),
    [
        ("No call.  ", "No call.  ", []),
        ("a < b <tool", "a < b <tool", []),
        (ROME, "", BOTH[:1]),
        (f"Let me look.\n{ROME}\n{NOW}\n", "Let me look.", BOTH),
        (
            f"{ROME}\n<tool_call>\nno JSON</tool_call>",
            "\n<tool_call>\nno JSON</tool_call>",
            BOTH[:1],
        ),
        ("<tool_call>[1]</tool_call> x", "<tool_call>[1]</tool_call> x", []),
        ("<tool_call>\n<function=f>", "<tool_call>\n<function=f>", []),
        (ROME.removesuffix("</tool_call>"), "", BOTH[:1]),  # it was the stop token
        ('<tool_call>{"name": "f", "parameters": {"é": 1}}</tool_call>', "", [("f", '{"é": 1}')]),
        ('<tool_call>{"name": "f", "arguments": "{}"}</tool_call>', "", [("f", "{}")]),
    ],
)
def test_calls_between_tags_however_they_come(text: str, shown: str, calls: Any) -> None:
    for size in (1, 2, 3, 7, len(text)):
        pieces = [text[i : i + size] for i in range(0, len(text), size)]
        assert read(TaggedCalls(parallel=True), pieces) == (shown, calls)


def test_text_is_not_held_back_for_long() -> None:
    reader = TaggedCalls(parallel=True)
    assert [reader.push(t)[0] for t in ("Once ", "upon", " <", "bold>")] == [
        *("Once", " upon", "", " <bold>")
    ]


def test_one_call_at_most() -> None:
    assert read(TaggedCalls(parallel=False), [ROME, NOW]) == ("", BOTH[:1])


def test_forced_calls() -> None:
    listed = json.dumps([{"name": name, "arguments": json.loads(args)} for name, args in BOTH])
    assert read(ForcedCalls(None), list(listed)) == ("", BOTH)
    assert read(ForcedCalls(None), [listed[:9]]) == (listed[:9], [])
    assert read(ForcedCalls("clock"), ["{", "}"]) == ("", BOTH[1:])


def test_schemas_that_refer_to_themselves() -> None:
    part = {"$defs": {"P": {"type": "integer"}}, "properties": {"p": {"$ref": "#/$defs/P"}}}
    two = [{"name": "f", "parameters": part}, {"name": "g", "parameters": part}]
    schema = forced_schema(two, None, parallel=True)
    assert schema["$defs"] == part["$defs"] and "maxItems" not in schema
    assert forced_schema(two, None, parallel=False)["maxItems"] == 1
    assert forced_schema(two, "g", parallel=True) == {"type": "object", **part}
    two[1] = {"name": "g", "parameters": {**part, "$defs": {"P": {"type": "string"}}}}
    with pytest.raises(InvalidValue, match=r"\$defs\.P"):
        forced_schema(two, None, parallel=True)


@pytest.fixture
def tool_server(serve: Any, fake_llm: Any) -> Any:
    def start(reply: str) -> Any:
        llm = fake_llm()
        llm.reply = reply
        return serve(llm)

    return start


def test_a_call_in_an_answer(tool_server: Any) -> None:
    server = tool_server(f"Wait.\n{ROME}\n{NOW}")
    (choice,) = server.chat("Hi", tools=TOOLS).json()["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "Wait."
    calls = choice["message"]["tool_calls"]
    assert [(c["function"]["name"], c["function"]["arguments"]) for c in calls] == BOTH
    assert [(c["type"], "index" in c) for c in calls] == [("function", False)] * 2
    (plain,) = server.chat("Hi", tools=TOOLS, tool_choice="none").json()["choices"]
    assert plain["message"]["content"].startswith("Wait.\n<tool_call>")
    assert plain["finish_reason"] == "stop" and "tool_calls" not in plain["message"]
    (cut,) = server.chat("Hi", tools=TOOLS, max_tokens=len(ROME)).json()["choices"]
    assert cut["finish_reason"] == "length"


def test_a_call_in_a_stream(tool_server: Any) -> None:
    server = tool_server(f"{ROME}\n{NOW}")
    client = openai.OpenAI(base_url=f"{server.http.base_url}/v1", api_key="none", max_retries=0)
    fields: Any = {"model": "fake/model", "messages": [{"role": "user", "content": "Hi"}]}
    text, calls, reason = "", {}, None
    for chunk in client.chat.completions.create(**fields, tools=TOOLS, stream=True, n=1):
        (choice,) = chunk.choices
        text += choice.delta.content or ""
        reason = choice.finish_reason or reason
        for call in choice.delta.tool_calls or ():
            assert call.id and call.type == "function" and call.index not in calls
            calls[call.index] = (call.function.name, call.function.arguments)
    assert (text, list(calls.values()), reason) == ("", BOTH, "tool_calls")
    assert list(calls) == [0, 1]


def test_a_forced_call(tool_server: Any) -> None:
    server = tool_server('{"city": "Rome"}')
    named = {"type": "function", "function": {"name": "weather"}}
    (choice,) = server.chat("Hi", tools=TOOLS, tool_choice=named).json()["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert (call["function"]["name"], call["function"]["arguments"]) == BOTH[0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (None, "tool_calls")
    assert server.llm.seen[-1].params.structured_outputs.json == CITY
    server.chat("Hi", tools=TOOLS, tool_choice="required", parallel_tool_calls=False)
    schema = server.llm.seen[-1].params.structured_outputs.json
    assert (schema["type"], schema["maxItems"], len(schema["items"]["anyOf"])) == ("array", 1, 2)
