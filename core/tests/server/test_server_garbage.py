"""Whatever is sent: a 4xx in OpenAI's shape that names the field, and nobody else notices."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import pytest

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
HI = {"messages": [{"role": "user", "content": "Hi"}]}
TOOLS = {"tools": [{"type": "function", "function": {"name": "f"}}]}
DEEP = "[" * 100_000
NESTED = '{"a":' * 150 + "1" + "}" * 150

FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"prompt": ""}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": [""]}, "prompt"),
    ({"prompt": ["a", ""]}, "prompt"),
    ({"prompt": [[]]}, "prompt"),
    ({"prompt": None}, "prompt"),
    ({"prompt": 7}, "prompt"),
    ({"prompt": {"text": "a"}}, "prompt"),
    ({"prompt": [True]}, "prompt"),
    ({"prompt": [1.5]}, "prompt"),
    ({"prompt": [-1]}, "prompt"),
    ({"prompt": [10**9]}, "prompt"),
    ({"prompt": [10**30]}, "prompt"),
    ({"prompt": [5, "a"]}, "prompt"),
    ({"prompt": "a" * 600}, "prompt"),
    ({"prompt": "a" * 8_000_000}, "prompt"),
    ({"prompt": ["a"] * 40}, "prompt"),
    ({"n": 40}, "n"),
    ({"n": 0}, "n"),
    ({"n": -1}, "n"),
    ({"n": 10**30}, "n"),
    ({"n": 1.5}, "n"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": -5}, "max_tokens"),
    ({"max_tokens": "16"}, "max_tokens"),
    ({"max_tokens": 10**6}, "max_tokens"),
    ({"max_tokens": 10**40}, "max_tokens"),
    ({"max_tokens": True}, "max_tokens"),
    ({"min_tokens": 17}, "min_tokens"),
    ({"temperature": float("nan")}, "temperature"),
    ({"temperature": float("inf")}, "temperature"),
    ({"temperature": -1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": [1]}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_p": 1.5}, "top_p"),
    ({"top_k": -2}, "top_k"),
    ({"min_p": 2}, "min_p"),
    ({"presence_penalty": 3}, "presence_penalty"),
    ({"frequency_penalty": -3}, "frequency_penalty"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"seed": 2**63}, "seed"),
    ({"seed": "x"}, "seed"),
    ({"stop": ""}, "stop"),
    ({"stop": [1]}, "stop[0]"),
    ({"stop_token_ids": [-1]}, "stop_token_ids[0]"),
    ({"stop_token_ids": [10**9]}, "stop_token_ids"),
    ({"allowed_token_ids": []}, "allowed_token_ids"),
    ({"bad_words": [""]}, "bad_words"),
    ({"logit_bias": {"x": 1}}, "logit_bias"),
    ({"logit_bias": {"9" * 5000: 1}}, "logit_bias"),
    ({"logit_bias": {"5": 101}}, "logit_bias[5]"),
    ({"logit_bias": {"5": float("nan")}}, "logit_bias.5"),
    ({"logit_bias": {"999999": 1}}, "logit_bias"),
    ({"logit_bias": []}, "logit_bias"),
    ({"logprobs": -1}, "logprobs"),
    ({"logprobs": 21}, "logprobs"),
    ({"logprobs": True}, "logprobs"),
    ({"prompt_logprobs": -2}, "prompt_logprobs"),
    ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stream": True, "stream_options": {"usage": True}}, "stream_options.usage"),
    ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
    ({"priority": 2**64}, "priority"),
    ({"cache_salt": ""}, "cache_salt"),
    ({"request_id": "x" * 300}, "request_id"),
    ({"suffix": "after"}, "suffix"),
    ({"best_of": 2}, "best_of"),
    ({"use_beam_search": True}, "use_beam_search"),
    ({"temprature": 1}, "temprature"),
    ({"x" * 5000: 1}, ""),
    ({"response_format": "json"}, "response_format"),
    ({"response_format": {"type": "xml"}}, "response_format.type"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
        "response_format.json_schema.schema",
    ),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": "no"}}},
        "response_format.json_schema.schema",
    ),
    ({"structured_outputs": {}}, "structured_outputs"),
    ({"structured_outputs": {"jason": {}}}, "structured_outputs.jason"),
    ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs"),
    ({"guided_regex": "a", "guided_choice": ["b"]}, "guided_choice"),
    ({"guided_regex": ""}, "guided_regex"),
    ({"guided_whitespace_pattern": "a"}, "guided_whitespace_pattern"),
    ({"model": 5}, "model"),
]

MESSAGES: list[tuple[dict[str, Any], str]] = [
    ({"messages": []}, "messages"),
    ({"messages": "Hi"}, "messages"),
    ({"messages": None}, "messages"),
    ({"messages": ["Hi"]}, "messages[0]"),
    ({"messages": [{"content": "Hi"}]}, "messages[0].role"),
    ({"messages": [{"role": "", "content": "Hi"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [5]}]}, "messages[0].content[0].type"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "messages[0].content[0].type",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        "messages[0].content[0].text",
    ),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{}]}]},
        "messages[0].tool_calls[0].function.name",
    ),
    ({"messages": [{"role": "martian", "content": "Hi"}]}, "messages"),
    ({"messages": [{"role": "user", "content": "a" * 600}]}, "messages"),
    ({"messages": [{"role": "user", "content": "a" * 8_000_000}]}, "messages"),
    ({**HI, "max_completion_tokens": 0}, "max_completion_tokens"),
    ({**HI, "max_tokens": 0}, "max_tokens"),
    ({**HI, "top_logprobs": 2}, "top_logprobs"),
    ({**HI, "logprobs": True, "top_logprobs": -1}, "top_logprobs"),
    ({**HI, "logprobs": True, "top_logprobs": 50}, "top_logprobs"),
    ({**HI, "logprobs": 1}, "logprobs"),
    ({**HI, "continue_final_message": True}, "continue_final_message"),
    ({**HI, "chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
    ({**HI, "chat_template_kwargs": {"add_generation_prompt": False}}, "chat_template_kwargs"),
    ({**HI, "chat_template_kwargs": {"documents": []}}, "chat_template_kwargs"),
    ({**HI, "tools": [{}]}, "tools[0].function.name"),
    ({**HI, "tools": {}}, "tools"),
    ({**HI, "tool_choice": "required"}, "tool_choice"),
    ({**HI, "tool_choice": "often", **TOOLS}, "tool_choice"),
    ({**HI, "tool_choice": {"type": "function"}, **TOOLS}, "tool_choice"),
    (
        {**HI, "tool_choice": {"type": "function", "function": {"name": "g"}}, **TOOLS},
        "tool_choice",
    ),
    ({**HI, "tool_choice": "required", "guided_regex": "a", **TOOLS}, "guided_regex"),
    ({**HI, "parallel_tool_calls": "no", **TOOLS}, "parallel_tool_calls"),
    (
        {**HI, "tool_choice": "required", "tools": [{"function": {"name": "f", "parameters": 1}}]},
        "tools[0].function.parameters",
    ),
    ({**HI, "prompt": "Hi"}, "prompt"),
    ({**HI, "n": 40}, "n"),
]

BODIES: list[tuple[str, dict[str, Any], int]] = [
    (COMPLETIONS, {"json": {}}, 400),
    (COMPLETIONS, {"json": []}, 400),
    (COMPLETIONS, {"json": "text"}, 400),
    (COMPLETIONS, {"json": None}, 400),
    (COMPLETIONS, {"content": b""}, 400),
    (COMPLETIONS, {"content": b"{"}, 400),
    (COMPLETIONS, {"content": b"{'prompt': 'Hi'}"}, 400),
    (COMPLETIONS, {"content": b'{"prompt": "\xff\xfe"}'}, 400),
    (COMPLETIONS, {"content": b'{"prompt": "\\ud800"}'}, 400),
    (COMPLETIONS, {"content": b'{"prompt": "\xed\xa0\x80"}'}, 400),
    (COMPLETIONS, {"content": b'{"n": ' + b"9" * 5000 + b"}"}, 400),
    (COMPLETIONS, {"content": b'{"prompt": "Hi", "n": ' + b"9" * 4000 + b"}"}, 400),
    (COMPLETIONS, {"content": b'{"prompt": "Hi", "temperature": 1e999}'}, 400),
    (COMPLETIONS, {"content": DEEP}, 400),
    (COMPLETIONS, {"content": '{"prompt": ' + DEEP + "}"}, 400),
    (COMPLETIONS, {"content": '{"prompt": ' + NESTED + "}"}, 400),
    (COMPLETIONS, {"content": b'{"prompt": "Hi"}\x00'}, 400),
    (COMPLETIONS, {"content": b'{"prompt": "Hi"} {}'}, 400),
    (COMPLETIONS, {"content": b"\x1f\x8b\x08", "headers": {"Content-Encoding": "gzip"}}, 415),
    (COMPLETIONS, {"content": b"{}", "headers": {"Content-Type": "text/plain"}}, 415),
    (COMPLETIONS, {"content": b"{}", "headers": {"Content-Type": ""}}, 415),
    (COMPLETIONS, {"content": b'{"prompt": "' + b"a" * 10_000_000 + b'"}'}, 413),
    (CHAT, {"content": b'{"messages": ' + DEEP.encode() + b"}"}, 400),
    (CHAT, {"json": {"model": "other", **HI}}, 404),
    (COMPLETIONS, {"json": {"model": "other", "prompt": "Hi"}}, 404),
    ("/tokenize", {"json": {}}, 400),
    ("/tokenize", {"json": {"prompt": 5}}, 400),
    ("/tokenize", {"json": {"messages": []}}, 400),
    ("/tokenize", {"json": {"prompt": "Hi", "extra": 1}}, 400),
    ("/detokenize", {"json": {"tokens": "Hi"}}, 400),
    ("/detokenize", {"json": {"tokens": [-1]}}, 400),
    ("/detokenize", {"json": {"tokens": [10**9]}}, 400),
    ("/v1/embeddings", {"json": {}}, 404),
    ("/v1/models", {"json": {}}, 405),
    ("/", {"content": b""}, 404),
]


def error_of(answer: Any, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"] and error["type"] and error["code"]
    assert len(error["message"]) < 1000
    return error


def is_named(error: dict[str, Any], param: str) -> None:
    assert error["type"] == "invalid_request_error"
    if param:
        assert error["param"] == param
        assert param.split("[")[0].split(".")[0] in error["message"]


@pytest.mark.parametrize(("fields", "param"), FIELDS, ids=[str(f)[:60] for f, _ in FIELDS])
def test_bad_fields_of_completions(server: Any, fields: dict[str, Any], param: str) -> None:
    text = json.dumps({"prompt": "Hi", **fields})
    headers = {"Content-Type": "application/json"}
    answer = server.http.post(COMPLETIONS, content=text, headers=headers)
    is_named(error_of(answer, 400), param)


@pytest.mark.parametrize(("fields", "param"), MESSAGES, ids=[str(f)[:60] for f, _ in MESSAGES])
def test_bad_fields_of_chat(server: Any, fields: dict[str, Any], param: str) -> None:
    is_named(error_of(server.http.post(CHAT, json=fields), 400), param)


@pytest.mark.parametrize(
    ("path", "body", "status"), BODIES, ids=[f"{p} {str(b)[:50]}" for p, b, _ in BODIES]
)
def test_bad_bodies(server: Any, path: str, body: dict[str, Any], status: int) -> None:
    headers = {"Content-Type": "application/json", **body.get("headers", {})}
    answer = server.http.post(path, **{**body, "headers": headers})
    error_of(answer, status)


SCHEMA = {"name": "n", "schema": {}}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"temprature": 1}, "temprature=1: unknown field; did you mean 'temperature'?"),
        ({"xyzzy": 1}, "xyzzy=1: unknown field; GET /openapi.json lists the known ones"),
        (
            {"structured_outputs": {"jsn": 5}},
            "structured_outputs.jsn=5: unknown field; did you mean 'json'?",
        ),
        ({"structured_outputs": {"xyzzy": 5}}, "unknown field; known are json, regex, choice,"),
        (
            {"response_format": {"type": "json_object", "xyzzy": 5}},
            "response_format.xyzzy=5: unknown field; known are type, json_schema",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {**SCHEMA, "shema": 5}}},
            "response_format.json_schema.shema=5: unknown field; did you mean 'schema'?",
        ),
    ],
)
def test_an_unknown_field_is_told_with_its_value_and_a_remedy(
    server: Any, fields: dict[str, Any], said: str
) -> None:
    error = error_of(server.complete("Hi", **fields), 400)
    assert said in error["message"] and "Params" not in error["message"]
    assert said.startswith(error["param"]) or "xyzzy" in error["param"]


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        (COMPLETIONS, [], "the body must be a JSON object"),
        (COMPLETIONS, {"prompt": "Hi", "n": "2"}, "n='2': must be a whole number"),
        (COMPLETIONS, {"prompt": "Hi", "stop_token_ids": [-1]}, "must be at least 0"),
        (COMPLETIONS, {"prompt": "Hi", "seed": 2**63}, "must be at most 9223372036854775807"),
        (CHAT, {"messages": []}, "messages=[]: must not be empty"),
        (CHAT, {**HI, "response_format": "json"}, "must be a JSON object"),
        (CHAT, {**HI, "stream": 1}, "stream=1: must be true or false"),
        (CHAT, {**HI, "logit_bias": {"{ge}": 1}}, "must be token ids"),
        ("/v1/embeddings", {"input": "Hi"}, "no route '/v1/embeddings' here"),
        ("/health", {}, "/health does not take POST, but GET"),
    ],
)
def test_errors_speak_of_json_and_not_of_python(
    server: Any, path: str, body: Any, said: str
) -> None:
    message = server.http.post(path, json=body).json()["error"]["message"]
    assert said in message and "Input should" not in message


def test_a_chunked_body_is_measured_too(server: Any) -> None:
    def parts() -> Any:
        yield b'{"prompt": "'
        for _ in range(200):
            yield b"a" * 50_000

    headers = {"Content-Type": "application/json"}
    error_of(server.http.post(COMPLETIONS, content=parts(), headers=headers), 413)


def test_a_neighbour_is_unaffected(serve: Any) -> None:
    server = serve()
    with server.http.stream(
        "POST", COMPLETIONS, json={"prompt": "[stalls]", "stream": True}
    ) as neighbour:
        lines = neighbour.iter_lines()
        assert next(lines).startswith("data: ")
        for fields, _ in FIELDS[::4]:
            text = json.dumps({"prompt": "Hi", **fields})
            headers = {"Content-Type": "application/json"}
            assert server.http.post(COMPLETIONS, content=text, headers=headers).status_code == 400
        assert server.complete("Hi").json()["choices"][0]["text"] == "Hello world"
        assert server.llm.num_unfinished == 1


def test_failures_of_the_engine(server: Any) -> None:
    full = server.complete("[full]")
    assert error_of(full, 503)["code"] == "queue_full"
    assert full.headers["retry-after"] == "1"
    assert "SIGKILL" in error_of(server.complete("[dead]"), 500)["message"]
    unforeseen = server.complete("[bug]")
    assert unforeseen.headers["connection"] == "close"  # nobody may send the next request there
    bug = error_of(unforeseen, 500)
    assert "secret" not in bug["message"] and "Traceback" not in bug["message"]
    assert error_of(server.complete("[full]", stream=True), 503)["code"] == "queue_full"


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
def test_failures_within_a_stream(server: Any, path: str) -> None:
    fields = (
        {"prompt": "[dies]"}
        if path == COMPLETIONS
        else {"messages": [{"role": "user", "content": "[dies]"}]}
    )
    answer = server.http.post(path, json={**fields, "stream": True})
    *_, told, done, end = answer.text.split("\n\n")
    assert (answer.status_code, done, end) == (200, "data: [DONE]", "")
    error = json.loads(told.removeprefix("data: "))["error"]
    assert "SIGKILL" in error["message"] and error["code"] == "engine_dead"


def test_one_bad_prompt_ends_its_siblings(serve: Any) -> None:
    server = serve()
    answer = server.complete(["[stuck]", "[full]", "[stuck]"])
    error_of(answer, 503)
    assert server.llm.num_unfinished == 0


@pytest.mark.parametrize(
    ("prompt", "stream"),
    [
        ("[stuck]", False),
        (["[stuck]", "[stuck]"], False),
        ("[stuck]", True),
        ("[stalls]", True),
        (["[stalls]", "[stalls]"], True),
    ],
)
def test_a_client_that_leaves_aborts_its_requests(serve: Any, prompt: Any, stream: bool) -> None:
    server = serve()
    text = json.dumps({"prompt": prompt, "stream": stream}).encode()
    head = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(f"{head}Content-Length: {len(text)}\r\n\r\n".encode() + text)
        assert server.llm.started.wait(10)
        if "stalls" in str(prompt):
            assert connection.recv(1)  # the stream has begun
        assert not server.llm.aborted.is_set()
    assert server.llm.aborted.wait(10)
    metrics = server.http.get("/metrics").text
    assert f'finished_reason="abort",model_name="fake/model"}} {len(server.llm.seen)}.0' in metrics


def test_a_client_that_leaves_within_its_body_is_no_failure(server: Any) -> None:
    messages = iter([{"type": "http.request", "body": b"{", "more_body": True}])
    sent: list[Any] = []

    async def receive() -> Any:
        return next(messages, {"type": "http.disconnect"})

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": COMPLETIONS, "headers": headers}
    scope |= {"http_version": "1.1", "scheme": "http", "query_string": b"", "root_path": ""}
    asyncio.run(server.app(scope, receive, send))
    assert sent[0]["status"] == 499
