"""/v1/chat/completions: shapes of answers, and what reaches the template and the engine."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

REPLY = "Hello world"


@pytest.fixture(scope="module")
def client(server: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.http.base_url}/v1", api_key="none", max_retries=0)


def chunks_of(answer: Any) -> list[dict[str, Any]]:
    *lines, done, end = answer.text.split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def test_an_answer_as_the_openai_client_reads_it(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="fake/model", messages=[{"role": "user", "content": "Hi"}], n=2
    )
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    assert [choice.index for choice in answer.choices] == [0, 1]
    message = answer.choices[0].message
    assert (message.role, message.content) == ("assistant", REPLY)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 24


def test_a_stream_as_the_openai_client_reads_it(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="",
            messages=[{"role": "user", "content": "Hi"}],
            n=2,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    opening = chunks[:2]
    assert [c.choices[0].delta.role for c in opening] == ["assistant", "assistant"]
    texts = ["", ""]
    for chunk in chunks[2:-1]:
        (choice,) = chunk.choices
        assert choice.delta.role is None
        texts[choice.index] += choice.delta.content or ""
    assert texts == [REPLY, REPLY]
    assert [c.choices[0].finish_reason for c in chunks[-3:-1]] == ["stop", "stop"]
    assert chunks[-1].choices == [] and chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 24


def test_usage_in_every_chunk(server: Any) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = chunks_of(server.chat(max_tokens=2, stream=True, stream_options=options))
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [0, 1, 2, 2]


def test_logprobs(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="",
        messages=[{"role": "user", "content": "Hi"}],
        max_tokens=1,
        logprobs=True,
        top_logprobs=2,
    )
    scores = answer.choices[0].logprobs
    assert scores is not None and scores.content is not None
    (token,) = scores.content
    assert (token.token, token.logprob, token.bytes) == ("H", -1.0, [72])
    assert [(top.token, top.logprob) for top in token.top_logprobs] == [
        ("\x01", -0.25),
        ("\x00", -0.5),
    ]


def test_logprobs_without_alternatives(server: Any) -> None:
    choice = server.chat(max_tokens=1, logprobs=True).json()["choices"][0]
    assert choice["logprobs"]["content"][0]["top_logprobs"] == []
    assert server.chat(max_tokens=1).json()["choices"][0]["logprobs"] is None


def test_prompt_logprobs_and_token_ids(server: Any) -> None:
    answer = server.chat(max_tokens=2, prompt_logprobs=0, return_token_ids=True).json()
    assert answer["choices"][0]["token_ids"] == [75, 104]
    assert len(answer["prompt_token_ids"]) == len(answer["prompt_logprobs"])
    chunks = chunks_of(server.chat(max_tokens=2, stream=True, return_token_ids=True))
    assert chunks[0]["prompt_token_ids"] == answer["prompt_token_ids"]
    assert [c["choices"][0].get("token_ids") for c in chunks[1:]] == [[75], [104]]


def test_the_answer_may_fill_the_context(server: Any) -> None:
    server.llm.seen.clear()
    server.chat("Hi")
    server.chat("Hi", max_tokens=3)
    server.chat("Hi", max_tokens=3, max_completion_tokens=4)
    free, old, new = server.llm.seen
    assert free.params.max_tokens == 512 - len(free.prompt)
    assert (old.params.max_tokens, new.params.max_tokens) == (3, 4)


def test_the_template_gets_everything(server: Any) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {
            "role": "assistant",
            "reasoning_content": "hm",
            "tool_calls": [
                {
                    "id": "1",
                    "type": "function",
                    "function": {"name": "f", "arguments": '{"x": 1}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "1", "content": "2"},
        {"role": "assistant", "content": "It is"},
    ]
    fields = {
        "add_generation_prompt": False,
        "continue_final_message": True,
        "chat_template_kwargs": {"enable_thinking": False},
        "documents": [{"title": "t", "text": "d"}],
        "reasoning_effort": "low",
        "tools": [tool],
        "tool_choice": "auto",
        "echo": True,
    }
    answer = server.http.post("/v1/chat/completions", json={"messages": messages, **fields})
    assert answer.json()["choices"][0]["message"]["content"] == "It is" + REPLY
    got = server.llm.tokenizer.rendered
    assert got["messages"][1]["content"] == messages[1]["content"]
    assert got["messages"][2]["tool_calls"] == messages[2]["tool_calls"]
    assert got["messages"][2]["reasoning_content"] == "hm"
    assert got["messages"][2]["content"] is None
    told = {"enable_thinking": False, "reasoning_effort": "low", "documents": fields["documents"]}
    assert got["variables"] == told
    assert got["add_generation_prompt"] is False
    assert server.llm.tokenizer.decode(server.llm.seen[-1].prompt).endswith("assistant: It is")
    assert got["tools"] == [tool]


def test_no_special_tokens_beyond_the_templates(server: Any) -> None:
    server.llm.seen.clear()
    server.chat("Hi")
    server.chat("Hi", add_special_tokens=True)
    without, with_bos = server.llm.seen
    assert with_bos.prompt == [1, *without.prompt]


def test_templates_of_requests_must_be_allowed(serve: Any) -> None:
    careful = serve(chat_template="{{ servers }}")
    refused = careful.chat("Hi", chat_template="{{ mine }}")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "chat_template")
    careful.chat("Hi")
    assert careful.llm.tokenizer.rendered["chat_template"] == "{{ servers }}"
    trusting = serve(trust_request_chat_template=True)
    assert trusting.chat("Hi", chat_template="{{ mine }}").status_code == 200
    assert trusting.llm.tokenizer.rendered["chat_template"] == "{{ mine }}"


def test_what_other_providers_use_is_accepted(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="",
        messages=[{"role": "developer", "content": "Hi", "name": "me"}],
        metadata={"a": "b"},
        modalities=["text"],
        parallel_tool_calls=False,
        prediction={"type": "content", "content": "x"},
        prompt_cache_key="k",
        prompt_cache_retention="24h",
        safety_identifier="s",
        service_tier="auto",
        store=False,
        user="u",
        extra_body={"top_k": 4, "min_p": 0.1, "repetition_penalty": 1.2},
    )
    assert answer.choices[0].message.content == REPLY


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"audio": {"voice": "alloy", "format": "mp3"}}, "audio"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"function_call": "auto"}, "function_call"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"verbosity": "low"}, "verbosity"),
        ({"web_search_options": {}}, "web_search_options"),
    ],
)
def test_what_we_cannot_do_is_refused(server: Any, fields: Any, param: str) -> None:
    answer = server.chat(**fields)
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert error["param"] == param
    assert "not supported" in error["message"]
