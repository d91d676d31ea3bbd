"""Health, models, metrics, tokens, keys, CORS."""

from __future__ import annotations

import dataclasses
from typing import Any

import openai
import pytest
from fastapi.routing import APIRoute
from prometheus_client.parser import text_string_to_metric_families

from pagoda.assets import storyteller

KEY = "token-abc123"


def test_health_follows_the_engine(serve: Any, fake_llm: Any) -> None:
    server = serve(fake_llm())
    assert server.http.get("/health").status_code == 200
    assert server.http.head("/health").status_code == 200
    server.llm.dead_reason = "Traceback (most recent call last):\n  File x\nMemoryError: no more"
    answer = server.http.get("/health")
    assert answer.status_code == 503
    assert answer.json()["error"]["message"] == "the engine is down: MemoryError: no more"
    assert server.http.get("/ping").status_code == 503
    assert server.http.head("/ping").status_code == 503


def test_models(serve: Any) -> None:
    server = serve(served_model_name=("first", "org/second"))
    client = openai.OpenAI(base_url=f"{server.http.base_url}/v1", api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()] == ["first", "org/second"]
    assert server.http.get("/v1/models/").json() == server.http.get("/v1/models").json()
    card = server.http.get("/v1/models/org/second").json()
    assert (card["object"], card["root"], card["max_model_len"]) == ("model", "fake/model", 512)
    assert server.http.get("/v1/models/other").json()["error"]["code"] == "model_not_found"
    assert server.complete("Hi").json()["model"] == "first"
    assert server.complete("Hi", model="org/second").json()["model"] == "org/second"


def test_the_bundled_model_has_a_name(serve: Any, fake_llm: Any) -> None:
    llm = fake_llm()
    llm.config = dataclasses.replace(llm.config, model=str(storyteller()))
    (card,) = serve(llm).http.get("/v1/models").json()["data"]
    assert (card["id"], card["root"]) == ("storyteller", str(storyteller()))


def test_version_and_load(server: Any) -> None:
    from pagoda import __version__

    assert server.http.get("/version").json() == {"version": __version__}
    assert server.http.get("/load").json() == {"server_load": 0}


def test_metrics(serve: Any) -> None:
    server = serve(served_model_name=("m",))
    server.complete("Hi", n=2)
    server.complete("Hi", stream=True, max_tokens=4)
    server.complete("Hi", max_tokens=0)  # refused: not counted
    samples = {}
    for family in text_string_to_metric_families(server.http.get("/metrics").text):
        for sample in family.samples:
            if "le" not in sample.labels:
                assert sample.labels.pop("model_name") == "m"
                name = (sample.name, *sample.labels.values())
                samples[name] = sample.value
    expected = {
        ("pagoda:num_requests_running",): 3,
        ("pagoda:num_requests_waiting",): 2,
        ("pagoda:kv_cache_usage_perc",): 0.25,
        ("pagoda:prefix_cache_queries_total",): 0,
        ("pagoda:prefix_cache_hits_total",): 7,
        ("pagoda:num_preemptions_total",): 0,
        ("pagoda:prompt_tokens_total",): 6,
        ("pagoda:generation_tokens_total",): 28,
        ("pagoda:request_success_total", "stop"): 2,
        ("pagoda:request_success_total", "length"): 1,
        ("pagoda:request_success_total", "abort"): 0,
        ("pagoda:time_to_first_token_seconds_count",): 2,
        ("pagoda:inter_token_latency_seconds_count",): 3,
        ("pagoda:e2e_request_latency_seconds_count",): 2,
        ("pagoda:request_queue_time_seconds_sum",): 0.5,
        ("pagoda:request_prefill_time_seconds_sum",): 1.5,
        ("pagoda:request_decode_time_seconds_sum",): 0,
        ("pagoda:request_inference_time_seconds_count",): 2,
        ("pagoda:request_prompt_tokens_sum",): 6,
        ("pagoda:request_generation_tokens_sum",): 28,
    }
    assert {name: samples.get(name) for name in expected} == pytest.approx(expected)


def test_tokenize_and_back(server: Any) -> None:
    answer = server.http.post("/tokenize", json={"prompt": "Hi", "return_token_strs": True}).json()
    assert answer == {
        "count": 3,
        "max_model_len": 512,
        "tokens": [1, 75, 108],
        "token_strs": ["<s>", "H", "i"],
    }
    bare = server.http.post("/tokenize", json={"prompt": "Hi", "add_special_tokens": False})
    assert bare.json()["tokens"] == [75, 108]
    back = server.http.post("/detokenize", json={"tokens": [75, 108]}).json()
    assert back == {"prompt": "Hi"}


def test_tokenize_messages(server: Any) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    answer = server.http.post("/tokenize", json={"messages": messages}).json()
    text = server.http.post("/detokenize", json={"tokens": answer["tokens"]}).json()["prompt"]
    assert text == "user: Hi\nassistant: "


def test_every_route_but_health_needs_the_key(serve: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("PAGODA_API_KEY", "from-environment")
    server = serve(api_key=(KEY, "second"))
    routes = [
        (method, route.path.replace("{name:path}", "fake/model"))
        for route in server.app.routes
        for method in getattr(route, "methods", ())
    ]
    assert len([r for r in server.app.routes if isinstance(r, APIRoute)]) >= 11
    for method, path in [*routes, ("GET", "/nowhere"), ("POST", "/v1/models")]:
        answer = server.http.request(method, path)
        if path in ("/health", "/ping"):
            assert answer.status_code == 200
            continue
        assert answer.status_code == 401, path
        if method != "HEAD":
            error = answer.json()["error"]
            assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
        for key in (KEY, "second", "from-environment"):
            headers = {"Authorization": f"Bearer {key}"}
            assert server.http.request(method, path, headers=headers).status_code != 401


def test_wrong_keys(serve: Any) -> None:
    server = serve(api_key=(KEY,))
    for header in (
        "",
        "Bearer",
        "Bearer no",
        f"Basic {KEY}",
        KEY,
        f"Bearer {KEY}x",
        "Bearer t\xf6",
    ):
        headers = {"Authorization": header.encode("latin-1")}
        assert server.http.get("/v1/models", headers=headers).status_code == 401, header


def test_the_openai_client_says_who_it_is(serve: Any) -> None:
    server = serve(api_key=(KEY,))
    url = f"{server.http.base_url}/v1"
    assert list(openai.OpenAI(base_url=url, api_key=KEY, max_retries=0).models.list())
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=url, api_key="wrong", max_retries=0).models.list()


def test_browsers_may_ask_first(serve: Any) -> None:
    server = serve(api_key=(KEY,), allowed_origins=("https://a.example",))
    headers = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    answer = server.http.options("/v1/completions", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://a.example"


def test_behind_a_proxy_path(serve: Any) -> None:
    server = serve(api_key=(KEY,), root_path="/llm")
    assert server.http.get("/health").status_code == 200
    headers = {"Authorization": f"Bearer {KEY}"}
    assert server.http.get("/v1/models", headers=headers).status_code == 200
    assert server.http.get("/v1/models").status_code == 401


def test_the_openapi_page_shows_the_bodies(server: Any) -> None:
    document = server.http.get("/openapi.json").json()
    body = document["paths"]["/v1/completions"]["post"]["requestBody"]["content"]
    assert "top_k" in body["application/json"]["schema"]["properties"]
