"""/v1/completions: shapes of answers, and what reaches the engine."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

REPLY = "Hello world"


@pytest.fixture(scope="module")
def client(server: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.http.base_url}/v1", api_key="none", max_retries=0)


def test_a_completion_as_the_openai_client_reads_it(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="fake/model", prompt="Hi", max_tokens=50)
    assert answer.object == "text_completion"
    assert answer.id.startswith("cmpl-")
    assert answer.model == "fake/model"
    assert answer.system_fingerprint
    (choice,) = answer.choices
    assert (choice.text, choice.finish_reason, choice.index) == (REPLY, "stop", 0)
    assert choice.logprobs is None
    usage = answer.usage
    assert usage is not None and usage.prompt_tokens_details is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (3, 12, 15)
    assert usage.prompt_tokens_details.cached_tokens == 1


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("ab", [[1, 100, 101]]),
        (["a", "b"], [[1, 100], [1, 101]]),
        ([100, 101], [[100, 101]]),
        ([[100], [101, 102]], [[100], [101, 102]]),
        (["a", [101]], [[1, 100], [101]]),
    ],
)
def test_every_form_of_prompt(server: Any, prompt: Any, expected: list[list[int]]) -> None:
    server.llm.seen.clear()
    answer = server.complete(prompt).json()
    assert [request.prompt for request in server.llm.seen] == expected
    assert [choice["index"] for choice in answer["choices"]] == list(range(len(expected)))
    assert answer["usage"]["prompt_tokens"] == sum(map(len, expected))


def test_choices_are_numbered_over_prompts_and_n(server: Any) -> None:
    answer = server.complete(["a", "b"], n=3, max_tokens=2).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3, 4, 5]
    assert {choice["finish_reason"] for choice in answer["choices"]} == {"length"}


def test_sampling_fields_reach_the_engine(server: Any) -> None:
    fields = {
        "n": 2,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 7,
        "min_p": 0.1,
        "presence_penalty": 0.2,
        "frequency_penalty": 0.3,
        "repetition_penalty": 1.1,
        "seed": 42,
        "stop": ["x", "y"],
        "stop_token_ids": [5],
        "include_stop_str_in_output": True,
        "ignore_eos": True,
        "max_tokens": 9,
        "min_tokens": 2,
        "prompt_logprobs": 1,
        "skip_special_tokens": False,
        "spaces_between_special_tokens": False,
        "allowed_token_ids": [5, 6],
        "bad_words": ["no"],
        "logprobs": 2,
    }
    server.llm.seen.clear()
    rest = {"logit_bias": {"5": -3}, "priority": 4, "cache_salt": "mine", "user": "me"}
    assert server.complete("Hi", **fields, **rest).status_code == 200
    (seen,) = server.llm.seen
    assert {name: getattr(seen.params, name) for name in fields} == fields
    assert seen.params.logit_bias == {5: -3.0}
    assert (seen.priority, seen.salt) == (4, "mine")


def test_defaults_of_the_model_hold_where_the_request_is_silent(serve: Any, fake_llm: Any) -> None:
    server = serve(fake_llm(temperature=0.25, top_k=5, max_tokens=100))
    server.complete("Hi", top_k=3)
    server.complete("Hi", temperature=None, max_tokens=None)
    server.chat("Hi")
    silent, null, chat = server.llm.seen
    assert (silent.params.temperature, silent.params.top_k) == (0.25, 3)
    assert silent.params.max_tokens == 16
    assert (null.params.temperature, null.params.max_tokens) == (0.25, 100)
    assert chat.params.max_tokens == 100


def test_max_tokens_that_nobody_asked_for_shrink_to_the_room(server: Any) -> None:
    server.llm.seen.clear()
    assert server.complete([5] * 507).status_code == 200
    assert server.complete([5] * 507, max_tokens=None).status_code == 200
    assert [seen.params.max_tokens for seen in server.llm.seen] == [5, 5]
    refused = server.complete([5] * 507, max_tokens=6)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "max_tokens")


def test_truncation_keeps_the_end(server: Any) -> None:
    server.llm.seen.clear()
    server.complete([5, 6, 7], truncate_prompt_tokens=2)
    server.complete([5] * 600, truncate_prompt_tokens=-1)
    first, second = server.llm.seen
    assert first.prompt == [6, 7]
    assert len(second.prompt) == 511


def test_legacy_logprobs(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="", prompt="Hi", max_tokens=3, logprobs=2)
    scores = answer.choices[0].logprobs
    assert scores is not None
    assert scores.tokens == ["H", "e", "l"]
    assert scores.text_offset == [0, 1, 2]
    assert scores.token_logprobs == [-1.0, -1.0, -1.0]
    assert scores.top_logprobs is not None
    assert scores.top_logprobs[0] == {"\x01": -0.25, "\x00": -0.5, "H": -1.0}


def test_logprobs_zero_gives_the_chosen_token(server: Any) -> None:
    choice = server.complete("Hi", max_tokens=1, logprobs=0).json()["choices"][0]
    assert choice["logprobs"]["top_logprobs"] == [{"H": -1.0}]


def test_tokens_as_ids(server: Any) -> None:
    fields = {"max_tokens": 2, "logprobs": 0, "return_tokens_as_token_ids": True}
    choice = server.complete("Hi", **fields).json()["choices"][0]
    assert choice["logprobs"]["tokens"] == ["token_id:75", "token_id:104"]
    assert choice["logprobs"]["text_offset"] == [0, 1]


def test_echo_with_logprobs_scores_the_prompt(server: Any) -> None:
    choice = server.complete("Hi", max_tokens=2, echo=True, logprobs=1).json()["choices"][0]
    assert choice["text"] == "HiHe"
    scores = choice["logprobs"]
    assert scores["tokens"] == ["<s>", "H", "i", "H", "e"]
    assert scores["token_logprobs"] == [None, -1.0, -1.0, -1.0, -1.0]
    assert scores["top_logprobs"][0] is None
    assert scores["text_offset"] == [0, 0, 1, 2, 3]  # within the text, which shows no <s>


def test_echo_of_token_ids_is_their_text(server: Any) -> None:
    choice = server.complete([75, 108], max_tokens=1, echo=True).json()["choices"][0]
    assert choice["text"] == "HiH"


def test_scoring_only(server: Any) -> None:
    answer = server.complete("Hi", max_tokens=0, echo=True, logprobs=1).json()
    (choice,) = answer["choices"]
    assert choice["text"] == "Hi"
    assert choice["logprobs"]["tokens"] == ["<s>", "H", "i"]
    assert answer["usage"]["completion_tokens"] == 0
    assert server.complete("Hi", max_tokens=0).status_code == 400


def test_prompt_logprobs_and_token_ids(server: Any) -> None:
    fields = {"max_tokens": 2, "prompt_logprobs": 1, "return_token_ids": True}
    choice = server.complete("Hi", **fields).json()["choices"][0]
    assert choice["prompt_token_ids"] == [1, 75, 108]
    assert choice["token_ids"] == [75, 104]
    first, second, _ = choice["prompt_logprobs"]
    assert first is None
    assert second["75"] == {"logprob": -1.0, "rank": 2, "decoded_token": "H"}


def test_a_stream_as_the_openai_client_reads_it(client: openai.OpenAI) -> None:
    options: Any = {"include_usage": True}
    chunks = list(
        client.completions.create(
            model="", prompt=["a", "b"], max_tokens=50, stream=True, stream_options=options
        )
    )
    *parts, last = chunks
    texts = ["", ""]
    reasons: dict[int, str] = {}
    for chunk in parts:
        assert chunk.usage is None
        (choice,) = chunk.choices
        texts[choice.index] += choice.text
        if choice.finish_reason:
            reasons[choice.index] = choice.finish_reason
    assert texts == [REPLY, REPLY]
    assert reasons == {0: "stop", 1: "stop"}
    assert last.choices == [] and last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (4, 24)
    assert len({chunk.id for chunk in chunks}) == 1


def test_the_bytes_of_a_stream(server: Any) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    answer = server.complete("Hi", max_tokens=2, stream=True, stream_options=options)
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = answer.text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [1, 2, 2]
    plain = server.complete("Hi", max_tokens=2, stream=True)
    assert "usage" not in plain.text


def test_echo_and_logprobs_in_a_stream(server: Any) -> None:
    answer = server.complete("Hi", max_tokens=2, stream=True, echo=True, logprobs=0)
    lines = answer.text.split("\n\n")[:-2]
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines]
    choices = [chunk["choices"][0] for chunk in chunks]
    assert [choice["text"] for choice in choices] == ["HiH", "e"]
    assert choices[0]["logprobs"]["tokens"] == ["<s>", "H", "i", "H"]
    assert choices[1]["logprobs"]["text_offset"] == [3]


def test_ids_come_from_the_client_or_are_new(server: Any) -> None:
    chosen = server.complete("Hi", request_id="mine").json()["id"]
    header = server.http.post(
        "/v1/completions", json={"prompt": "Hi"}, headers={"X-Request-Id": "yours"}
    ).json()["id"]
    assert (chosen, header) == ("cmpl-mine", "cmpl-yours")
    assert server.complete("Hi").json()["id"] != server.complete("Hi").json()["id"]


@pytest.mark.parametrize(
    ("fields", "kind", "value"),
    [
        ({"response_format": {"type": "json_object"}}, "json_object", True),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "strict": True, "schema": {"type": "object"}},
                }
            },
            "json",
            {"type": "object"},
        ),
        ({"structured_outputs": {"choice": ["a", "b"]}}, "choice", ["a", "b"]),
        ({"guided_json": {"type": "object"}}, "json", {"type": "object"}),
        ({"guided_regex": "a+"}, "regex", "a+"),
        ({"guided_choice": ["a"]}, "choice", ["a"]),
        ({"guided_grammar": 'start: "a"'}, "grammar", 'start: "a"'),
    ],
)
def test_structured_outputs(server: Any, fields: Any, kind: str, value: Any) -> None:
    server.llm.seen.clear()
    assert server.complete("Hi", **fields).status_code == 200
    assert getattr(server.llm.seen[0].params.structured_outputs, kind) == value


def test_plain_text_is_no_structure(server: Any) -> None:
    server.llm.seen.clear()
    server.complete("Hi", response_format={"type": "text"})
    assert server.llm.seen[0].params.structured_outputs is None
