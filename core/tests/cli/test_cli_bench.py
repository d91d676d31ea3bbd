"""Workloads, reports, the HTTP client, and benchmarks on stand-ins."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from pagoda.cli.bench.http import Endpoint
from pagoda.cli.bench.report import make_report, percentiles
from pagoda.cli.bench.serve import Answer, summarize
from pagoda.cli.bench.workload import Lengths, make_workload, read_dataset
from pagoda.cli.main import main
from pagoda.platform.errors import PagodaError

Capture = pytest.CaptureFixture[str]
Made = list[Any]  # conftest's FakeLLMs
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def workload(seed: int = 0, **changes: Any) -> list[Any]:
    given = {"input_len": Lengths(2, 9), "output_len": Lengths(5, 5), "num_prompts": 20}
    args = argparse.Namespace(**{"dataset_path": None, **given, **changes})
    return make_workload(args, vocab_size=50, seed=seed)


def test_random_prompts_keep_to_the_lengths_and_the_vocabulary() -> None:
    asks = workload()
    assert {ask.output_len for ask in asks} == {5}
    assert all(2 <= len(ask.prompt) <= 9 for ask in asks)
    assert all(3 <= token < 50 for ask in asks for token in ask.prompt)


def test_the_seed_decides_the_workload() -> None:
    assert workload(1) == workload(1) != workload(2)


@pytest.mark.parametrize("text", ["", "0", "5:4", "a", "1:b", "-3"])
def test_lengths_that_are_none(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        Lengths.parse(text)


@pytest.mark.parametrize(
    "content",
    [
        '{"prompt": "one"}\n\n{"prompt": "two", "id": 3}\n',
        '{"turns": ["one", "later"]}\n{"question": "two"}',
        '["one", "two"]',
        '[{"conversations": [{"from": "human", "value": "one"}]}, {"conversations": []}, "two"]',
        '{"messages": [{"role": "user", "content": "one"}]}\n"two"',
    ],
)
def test_datasets_of_several_shapes(tmp_path: Path, content: str) -> None:
    path = tmp_path / "data"
    path.write_text(content)
    assert read_dataset(str(path)) == ["one", "two"]
    asks = workload(dataset_path=str(path), num_prompts=4)
    assert sorted(ask.prompt for ask in asks) == ["one", "one", "two", "two"]


@pytest.mark.parametrize("content", ["{", "[]", '{"nothing": 1}', '{"messages": [3]}'])
def test_datasets_without_prompts(tmp_path: Path, content: str) -> None:
    path = tmp_path / "data"
    path.write_text(content)
    with pytest.raises(PagodaError, match="data"):
        read_dataset(str(path))


def test_a_report_has_median_spread_and_circumstances() -> None:
    runs = [{"speed": 1.0}, {"speed": 5.0, "other": 1.0}, {"speed": 2.0}]
    report = json.loads(json.dumps(make_report("pagoda bench x", ["--y", "a b"], {}, runs)))
    assert report["summary"] == {"speed": {"median": 2.0, "min": 1.0, "max": 5.0}}
    assert report["command"] == "pagoda bench x --y 'a b'"
    assert report["machine"]["cores"] and report["versions"]["numpy"]


def test_percentiles_of_nothing_are_none() -> None:
    assert percentiles("x", []) == {}
    assert percentiles("x", [1.0, 3.0], 10)["x_p50"] == 20


def test_latency(made: Made, capsys: Capture) -> None:
    words = ["--batch-size", "2", "--num-iters", "3", "--num-iters-warmup", "0", "--json"]
    assert main(["bench", "latency", "--model", "m", "--input-len", "4", *words]) == 0
    report = json.loads(capsys.readouterr().out)
    assert len(report["runs"]) == 3 and report["percentiles"]["seconds_p99"] > 0
    salts = [prompts[0]["cache_salt"] for prompts, _ in made[0].calls]
    assert len(set(salts)) == 3  # no batch finds another's prefixes


def test_throughput(made: Made, capsys: Capture) -> None:
    words = ["--num-prompts", "10", "--input-len", "2:4", "--repeat", "2", "--disable-detokenize"]
    assert main(["bench", "throughput", "--model", "m", *words, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert len(report["runs"]) == 2 and report["summary"]["output_tokens_per_s"]["median"] > 0
    assert not made[0].calls[1][1][0].detokenize
    assert main(["bench", "throughput", "--model", "m", *words]) == 0
    assert "over 2 runs" in capsys.readouterr().out


def test_engine(capsys: Capture) -> None:
    words = ["--steps", "5", "--repeat", "1", "--num-requests", "1", "3", "--context-len", "40"]
    assert main(["bench", "engine", *words, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)["summary"]
    cases = ("requests_1_context_40", "requests_3_context_40")
    assert set(summary) == {
        f"{metric}_{case}" for metric in ("steps_per_s", "cpu_us_per_step") for case in cases
    }


def talk(handle: Handler, client: Callable[[Endpoint], Awaitable[Any]], **options: Any) -> Any:
    """What ``client`` returns against a server that treats each connection with ``handle``."""

    async def both() -> Any:
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            return await client(Endpoint(f"http://127.0.0.1:{port}/base/v1", **options))
        finally:
            server.close()

    return asyncio.run(both())


def answering(raw: bytes, seen: list[bytes] | None = None) -> Handler:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if seen is not None:
            seen.append(head)
        writer.write(raw)
        await writer.drain()
        writer.close()

    return handle


async def events(endpoint: Endpoint) -> list[Any]:
    return [event async for event in endpoint.post_events("/v1/completions", {"a": 1})]


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def test_events_may_be_cut_anywhere() -> None:
    body = b'data: {"x": 1}\n\n: comment\r\ndata:{"x": 2}\r\n\r\ndata: [DONE]\n\n'
    for cut in range(1, len(body)):
        raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        raw += chunk(body[:cut]) + chunk(body[cut:]) + b"0\r\n\r\n"
        assert talk(answering(raw), events) == [{"x": 1}, {"x": 2}]


def test_the_request_carries_key_and_path() -> None:
    seen: list[bytes] = []
    raw = b'HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n{"a":1}'

    async def get(endpoint: Endpoint) -> Any:
        return await endpoint.get("/v1/models")

    assert talk(answering(raw, seen), get, api_key="k") == {"a": 1}
    assert seen[0].startswith(b"GET /base/v1/models HTTP/1.1\r\n")
    assert b"Authorization: Bearer k\r\n" in seen[0]


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"HTTP/1.1 404 No\r\n\r\nno such model", "404: no such model"),
        (b"SSH-2.0 hello\r\n", "does not speak HTTP"),
        (b"", "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "connection broke"),
    ],
)
def test_answers_that_are_none(raw: bytes, shown: str) -> None:
    with pytest.raises(PagodaError, match=shown):
        talk(answering(raw), events)


def test_a_silent_server_times_out() -> None:
    raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    over = asyncio.Event()

    async def stay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        await over.wait()

    with pytest.raises(PagodaError, match=r"nothing came for 0\.01 s"):
        talk(stay, events, timeout_seconds=0.01)


def test_serve_reports_what_clients_saw(capsys: Capture) -> None:
    answers = [
        Answer(0.0, [1.0, 2.0, 4.0], 4.0, num_input=5, num_output=3),
        Answer(0.0, [0.5], 0.5, num_input=5, num_output=1),
        Answer(0.0, [], 9.0, error="refused"),
    ]
    metrics = summarize(answers, 10.0, [("ttft", 600.0)])
    assert (metrics["completed"], metrics["failed"]) == (2, 1)
    assert metrics["output_tokens_per_s"] == 0.4
    assert metrics["ttft_ms_mean"] == 750 and metrics["tpot_ms_mean"] == 1500
    assert metrics["itl_ms_p50"] == 1500 and metrics["e2el_ms_mean"] == 2250
    assert metrics["goodput_requests_per_s"] == 0.1
    assert capsys.readouterr().err == "failed: refused\n"


def test_serve_against_a_server_and_without_one(capsys: Capture) -> None:
    """The whole command, against a server that streams two tokens to everybody."""
    models = b'{"data": [{"id": "tiny"}]}'
    events = (
        b'data: {"choices": [{"text": "a"}]}\n\ndata: {"choices": [{"text": "b"}]}\n\n'
        b'data: {"choices": [], "usage": {"prompt_tokens": 4, "completion_tokens": 2}}\n\n'
        b"data: [DONE]\n\n"
    )

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + (models if b"/v1/models" in head else events))
        await writer.drain()
        writer.close()

    async def whole() -> int:
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        words = ["bench", "serve", "--base-url", url, "--num-prompts", "6", "--repeat", "2"]
        words += ["--max-concurrency", "2", "--request-rate", "1000", "--api-key", "hidden"]
        code = await asyncio.to_thread(main, [*words, "--json"])
        server.close()
        return code

    assert asyncio.run(whole()) == 0
    out = capsys.readouterr().out
    report = json.loads(out)
    assert report["settings"]["model"] == "tiny" and "hidden" not in out
    assert report["summary"]["completed"]["min"] == 6
    assert report["summary"]["ttft_ms_p50"]["median"] >= 0
    assert main(["bench", "serve", "--port", "9"]) == 1
    assert "no server answers at http://127.0.0.1:9" in capsys.readouterr().err
    assert main(["bench", "serve", "--base-url", "localhost"]) == 1


@pytest.mark.parametrize(
    "words",
    [
        ("--goodput", "ttft"),
        ("--goodput", "ttft:soon"),
        ("--goodput", "tokens:5"),
        ("--request-rate", "0"),
        ("--request-rate", "-1"),
        ("--vocab-size", "3"),
    ],
)
def test_what_serve_cannot_measure_is_a_usage_error(
    words: tuple[str, str], capsys: Capture
) -> None:
    assert main(["bench", "serve", *words]) == 2
    told = capsys.readouterr().err
    assert words[1] in told and "_goal" not in told
