"""``pagoda serve`` as a process, on a real trained model: vLLM's quickstart, bad requests beside
good ones, the death of the engine, and stopping."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from test_readme import python_blocks

KEY = "token-abc123"
PAGODA = [sys.executable, "-c", "import sys; from pagoda.cli.main import main; sys.exit(main())"]
PATIENCE = 60.0
LONG = {"max_tokens": 400, "ignore_eos": True, "temperature": 0, "stream": True}


class Server:
    """A server process of our own, in a process group of its own."""

    def __init__(self, log: Path, *words: str):
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.log = log
        self.words = ["serve", *words, "--host", "127.0.0.1", "--port", str(self.port)]
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [*PAGODA, *self.words],
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.url = f"http://127.0.0.1:{self.port}"
        headers = {"Authorization": f"Bearer {KEY}"}
        self.http = httpx.Client(base_url=self.url, headers=headers, timeout=PATIENCE)

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None and time.monotonic() < deadline:
            try:
                if self.http.get("/health").status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.05)
        pytest.fail(f"the server did not start:\n{self.log.read_text()}")

    def engine_pid(self) -> int:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        (child,) = children.split()
        return int(child)

    def close(self) -> None:
        self.http.close()
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="module")
def server(
    assets: Path, stories260k: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server on the CPU platform, with a key and a chat template."""
    template = assets / "chat_templates" / "vllm_examples" / "template_chatml.jinja"
    # One thread: several wait for each other when the machine is busy with other tests.
    words = f"--device cpu --cpu-threads 1 --dtype float32 --api-key {KEY}".split()
    more = ["--served-model-name", "stories", "--chat-template", str(template)]
    log = tmp_path_factory.mktemp("server") / "log"
    server = Server(log, str(stories260k / "hf"), *words, *more)
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.close()


@pytest.fixture
def fragile(request: pytest.FixtureRequest, stories260k: Path, tmp_path: Path) -> Iterator[Server]:
    """A server to break: on the reference platform, quick to start."""
    words = ["--device", "reference", "--dtype", "float32", *getattr(request, "param", ())]
    server = Server(tmp_path / "log", str(stories260k / "hf"), *words)
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module")
def client(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0)


def events(lines: Iterator[str]) -> Iterator[Any]:
    for line in lines:
        if line.startswith("data: "):
            data = line.removeprefix("data: ")
            yield data if data == "[DONE]" else json.loads(data)


def test_the_quickstart(client: openai.OpenAI) -> None:
    (model,) = client.models.list()
    assert model.id == "stories"
    completion = client.completions.create(model=model.id, prompt="San Francisco is a")
    assert completion.choices[0].text
    chat = client.chat.completions.create(
        model=model.id,
        messages=[
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": "Tell me a joke."},
        ],
        max_tokens=20,
    )
    assert chat.choices[0].message.content


def test_the_golden_tokens_streamed_and_whole_at_once(server: Server, stories260k: Path) -> None:
    golden = json.loads((stories260k / "golden_greedy_fp32.json").read_text())

    def whole(record: Any) -> list[int]:
        fields = {"prompt": record["prompt_ids"], "max_tokens": 200, "temperature": 0}
        fields |= {"ignore_eos": True, "return_token_ids": True}
        answer = server.http.post("/v1/completions", json=fields)
        return list(answer.json()["choices"][0]["token_ids"])

    def streamed(record: Any) -> list[int]:
        fields = {"prompt": record["prompt_ids"], "max_tokens": 200, "temperature": 0}
        fields |= {"ignore_eos": True, "return_token_ids": True, "stream": True}
        with server.http.stream("POST", "/v1/completions", json=fields) as answer:
            *chunks, done = events(answer.iter_lines())
        assert done == "[DONE]"
        return [token for chunk in chunks for token in chunk["choices"][0]["token_ids"]]

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(whole, golden)), list(pool.map(streamed, golden))
    expected = [record["output_ids"][:200] for record in golden]
    assert answers[0] == expected
    assert answers[1] == expected


def test_prompt_logprobs_by_echo(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="stories", prompt="Once upon a time", max_tokens=0, echo=True, logprobs=1
    )
    scores = answer.choices[0].logprobs
    assert scores is not None and scores.tokens is not None and scores.token_logprobs is not None
    assert answer.choices[0].text == "Once upon a time"
    assert "".join(scores.tokens[1:]).strip() == "Once upon a time"
    assert scores.token_logprobs[0] is None
    assert all(p <= 0 for p in scores.token_logprobs[1:])


def test_special_tokens_in_an_echoed_prompt_count_as_they_stand_there(
    client: openai.OpenAI,
) -> None:
    prompt = "Once</s>upon a time"
    answer = client.completions.create(
        model="stories", prompt=prompt, max_tokens=2, echo=True, logprobs=0, temperature=0
    )
    (choice,) = answer.choices
    scores = choice.logprobs
    assert scores is not None and scores.tokens is not None and scores.text_offset is not None
    begun = list(zip(scores.text_offset, scores.tokens, strict=True))
    assert begun[0] == (0, "<s>") and (4, "</s>") in begun  # the first was added
    for start, token in begun[1:]:
        assert choice.text[start:].startswith((token, token.lstrip())), (start, token)


def test_structured_output(client: openai.OpenAI) -> None:
    schema: dict[str, object] = {
        "type": "object",
        "properties": {"a": {"enum": [1, 2]}},
        "required": ["a"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model="stories",
        messages=[{"role": "user", "content": "Hi"}],
        max_tokens=200,
        response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": schema}},
        extra_body={"guided_whitespace_pattern": "[ ]?"},  # small models love blanks
    )
    assert answer.choices[0].finish_reason == "stop"
    assert json.loads(answer.choices[0].message.content or "")["a"] in (1, 2)


def test_garbage_beside_a_running_request(server: Server) -> None:
    garbage: list[tuple[dict[str, Any], str]] = [
        ({"prompt": ""}, "prompt"),
        ({"prompt": [10**6]}, "prompt"),
        ({"prompt": "word " * 2000}, "prompt"),
        ({"prompt": "word " * 100_000}, "prompt"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 10**6}, "max_tokens"),
        ({"logit_bias": {"600": 1}}, "logit_bias"),
        ({"stop_token_ids": [600]}, "stop_token_ids"),
        ({"allowed_token_ids": [600]}, "allowed_token_ids"),
        ({"priority": 2}, "priority"),
        ({"guided_regex": "("}, "guided_regex"),
        ({"guided_regex": "(a|"}, "guided_regex"),
        ({"guided_grammar": "start: nothing"}, "guided_grammar"),
        ({"guided_grammar": "%%%"}, "guided_grammar"),
        ({"guided_json": {"type": "no such type"}}, "guided_json"),
        ({"guided_json": {"$ref": "#/nowhere"}}, "guided_json"),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": {"type": 5}},
                }
            },
            "response_format.json_schema.schema",
        ),
    ]
    fields = {"prompt": "Once upon a time", "return_token_ids": True, **LONG}
    with server.http.stream("POST", "/v1/completions", json=fields) as neighbour:
        chunks = events(neighbour.iter_lines())
        tokens = list(next(chunks)["choices"][0]["token_ids"])
        for wrong, param in garbage:
            answer = server.http.post("/v1/completions", json={"prompt": "Hi", **wrong})
            assert answer.status_code == 400, (wrong, answer.text)
            assert answer.json()["error"]["param"] == param, answer.text
        for chunk in chunks:
            if chunk != "[DONE]":
                tokens += chunk["choices"][0]["token_ids"]
    alone = server.http.post("/v1/completions", json={**fields, "stream": False}).json()
    assert tokens == alone["choices"][0]["token_ids"]


def test_a_client_that_leaves_frees_the_engine(server: Server) -> None:
    fields = {"prompt": ["Once"] * 8, **LONG}
    with server.http.stream("POST", "/v1/completions", json=fields) as answer:
        next(answer.iter_lines())
    deadline = time.monotonic() + PATIENCE
    while server.http.get("/load").json()["server_load"]:
        assert time.monotonic() < deadline
    metrics = server.http.get("/metrics").text
    lines = [line for line in metrics.splitlines() if "request_success_total" in line]
    (aborted,) = (line for line in lines if "abort" in line)
    assert float(aborted.split()[-1]) >= 1


def test_the_readmes_client(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = (block for block in python_blocks() if "OpenAI(" in block)
    for written, served in (("http://localhost:8000", server.url), ("Qwen/Qwen3-0.6B", "stories")):
        assert written in code
        code = code.replace(written, served)
    exec(code, {})
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "go"}}])
def test_a_forced_tool_call_fits_its_schema(client: openai.OpenAI, choice: Any) -> None:
    where = {"type": "string", "enum": ["Rome", "Oslo"]}
    parameters = {
        "type": "object",
        "properties": {"where": {"$ref": "#/$defs/Where"}},
        "required": ["where"],
        "additionalProperties": False,
        "$defs": {"Where": where},
    }
    answer = client.chat.completions.create(
        model="stories",
        messages=[{"role": "user", "content": "Where?"}],
        tools=[{"type": "function", "function": {"name": "go", "parameters": parameters}}],
        tool_choice=choice,
        parallel_tool_calls=False,
        temperature=0,
        max_tokens=200,
    )
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "go" and answer.choices[0].finish_reason == "tool_calls"
    assert json.loads(call.function.arguments)["where"] in where["enum"]


def test_the_engine_dies(fragile: Server) -> None:
    fields = {"prompt": "Once upon a time", **LONG}
    with fragile.http.stream("POST", "/v1/completions", json=fields) as answer:
        chunks = events(answer.iter_lines())
        next(chunks)
        os.kill(fragile.engine_pid(), signal.SIGKILL)
        *_, told, done = chunks
    assert done == "[DONE]"
    assert "SIGKILL" in told["error"]["message"]
    health = fragile.http.get("/health")
    assert health.status_code == 503
    assert "SIGKILL" in health.json()["error"]["message"]
    again = fragile.http.post("/v1/completions", json={"prompt": "Hi"})
    assert (again.status_code, again.json()["error"]["code"]) == (500, "engine_dead")
    fragile.process.send_signal(signal.SIGTERM)
    assert fragile.process.wait(PATIENCE) == 0


@pytest.mark.parametrize("from_terminal", [False, True], ids=["SIGTERM", "Ctrl-C"])
def test_stopping_lets_requests_finish(fragile: Server, from_terminal: bool) -> None:
    fields = {"prompt": "Once upon a time", "return_token_ids": True, **LONG}
    with fragile.http.stream("POST", "/v1/completions", json=fields) as answer:
        chunks = events(answer.iter_lines())
        num_tokens = len(next(chunks)["choices"][0]["token_ids"])
        if from_terminal:  # reaches the engine's process too
            os.killpg(fragile.process.pid, signal.SIGINT)
        else:
            fragile.process.send_signal(signal.SIGTERM)
        for chunk in chunks:
            if chunk != "[DONE]":
                num_tokens += len(chunk["choices"][0]["token_ids"])
    assert num_tokens == 400
    assert fragile.process.wait(PATIENCE) == 0
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", fragile.port), timeout=1)


def test_a_second_signal_stops_at_once(fragile: Server) -> None:
    fields = {"prompt": ["Once upon a time"] * 16, **LONG}
    with fragile.http.stream("POST", "/v1/completions", json=fields) as answer:
        next(answer.iter_lines())
        fragile.process.send_signal(signal.SIGTERM)
        while fragile.process.poll() is None and "may finish" not in fragile.log.read_text():
            time.sleep(0.01)
        fragile.process.send_signal(signal.SIGTERM)
        assert fragile.process.wait(PATIENCE) == 128 + signal.SIGTERM
    log = fragile.log.read_text()
    assert "cut short" in log and "Traceback" not in log


@pytest.mark.parametrize("fragile", [["--shutdown-timeout", "0"]], indirect=True)
def test_answers_that_the_end_cuts_off_are_told_so(fragile: Server) -> None:
    fields = {"prompt": ["Once upon a time"] * 16, **LONG}
    with ThreadPoolExecutor(1) as pool:
        whole = pool.submit(fragile.http.post, "/v1/completions", json={**fields, "stream": False})
        while not fragile.http.get("/load").json()["server_load"]:
            assert not whole.done()
        with fragile.http.stream("POST", "/v1/completions", json=fields) as answer:
            chunks = events(answer.iter_lines())
            next(chunks)
            fragile.process.send_signal(signal.SIGTERM)
            *_, told, done = chunks
    assert done == "[DONE]" and told["error"]["code"] == "server_stopped"
    assert whole.result().status_code == 503
    assert whole.result().json() == told
    assert told["error"]["type"] == "service_unavailable_error"
    assert fragile.process.wait(PATIENCE) == 0
    assert "Traceback" not in fragile.log.read_text()


def test_a_taken_port_is_told_before_the_model_is_looked_at(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = ["serve", "no/such-model", "--host", "127.0.0.1", "--port", str(port)]
        done = subprocess.run([*PAGODA, *words], capture_output=True, text=True, check=False)
    assert done.returncode not in (0, -signal.SIGTERM)
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
    assert "Traceback" not in done.stderr
