"""Batch files: every line answered, in order, whatever its neighbours are."""

from __future__ import annotations

import asyncio
import io
import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from pagoda.cli.in_process import post
from pagoda.cli.main import main
from pagoda.cli.run_batch import BadLine, parse

Capture = pytest.CaptureFixture[str]

GOOD = {"method": "POST", "url": "/v1/completions", "body": {"prompt": "x"}}


class Engine:
    """A stand-in for AsyncLLM, and the routes on it: the body comes back, late ones first."""

    def __init__(self) -> None:
        self.info = types.SimpleNamespace(max_num_seqs=4)
        self.dead_reason: str | None = None
        self.closed = False
        self.refusals = 0
        self.headers: list[dict[bytes, bytes]] = []

    def close(self) -> None:
        self.closed = True

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = json.loads((await receive())["body"])
        self.headers.append(dict(scope["headers"]))
        for _ in range(body.get("late", 0)):
            await asyncio.sleep(0)
        status, answer = 200, {"path": scope["path"], **body}
        if body.get("prompt") == "crash":
            raise RuntimeError("a bug")
        if body.get("prompt") == "bad":
            status, answer = 400, {"error": {"message": "prompt: bad", "code": "invalid_value"}}
        if body.get("prompt") == "busy" and self.refusals < 2:
            self.refusals += 1
            status, answer = 503, {"error": {"message": "full", "code": "queue_full"}}
        text = json.dumps(answer).encode()
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": text[:3], "more_body": True})
        await send({"type": "http.response.body", "body": text[3:]})


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    engine = Engine()
    module: Any = types.ModuleType("pagoda.async_llm")
    module.AsyncLLM = types.SimpleNamespace(from_config=lambda config: engine)
    monkeypatch.setitem(sys.modules, "pagoda.async_llm", module)
    module = types.ModuleType("pagoda.server.app")
    module.create_app = lambda llm, settings: llm
    monkeypatch.setitem(sys.modules, "pagoda.server.app", module)
    monkeypatch.setattr("pagoda.cli.run_batch.RETRY_SECONDS", 0)
    return engine


def run_batch(tmp_path: Path, *lines: Any) -> list[dict[str, Any]]:
    """Answer ``lines``, as they are or as JSON; the records that came out."""
    raw = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    (tmp_path / "in").write_bytes(b"\n".join(raw) + b"\n")
    words = ["-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--model", "m"]
    assert main(["run-batch", *words]) == 0
    return [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]


def line(custom_id: str, **body: Any) -> dict[str, Any]:
    return {"custom_id": custom_id, **GOOD, "body": body}


def test_answers_come_in_the_order_of_the_lines(engine: Engine, tmp_path: Path) -> None:
    records = run_batch(tmp_path, line("a", late=50), line("b"), line("c", late=5))
    assert [record["custom_id"] for record in records] == ["a", "b", "c"]
    first = records[0]
    assert first["error"] is None and first["response"]["status_code"] == 200
    assert first["response"]["body"] == {"path": "/v1/completions", "late": 50}
    assert engine.closed


def test_bad_lines_stop_nobody(engine: Engine, tmp_path: Path, capsys: Capture) -> None:
    records = run_batch(
        tmp_path,
        line("good"),
        b"{not json",
        b"\xff\xfe",
        b"",
        [1],
        line("refused", prompt="bad"),
        {**line("streamed", stream=True)},
        line("last"),
    )
    assert [r["error"] and r["error"]["code"] for r in records] == [
        None,
        "bad_line",
        "bad_line",
        "bad_line",
        "invalid_value",
        "bad_line",
        None,
    ]
    assert records[4]["response"]["status_code"] == 400
    assert records[5]["custom_id"] == "streamed" and records[5]["response"] is None
    assert "7 lines answered, 5 of them with an error" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({"custom_id": None}, "custom_id=None: must be a non-empty string"),
        ({"custom_id": 5}, "custom_id=5"),
        ({"custom_id": "seen"}, "an earlier line has it"),
        ({"method": "GET"}, "method='GET': must be POST"),
        ({"url": "/v1/embeddings"}, "url='/v1/embeddings': must be one of /v1/chat/completions"),
        ({"body": "text"}, "body: must be a JSON object"),
        ({"body": {"stream": True}}, "body.stream"),
    ],
)
def test_what_is_wrong_with_a_line(change: dict[str, Any], shown: str) -> None:
    with pytest.raises(BadLine, match=shown):
        parse(json.dumps({"custom_id": "x", **GOOD, **change}).encode(), {"seen"})


def test_deep_nesting_is_a_bad_line() -> None:
    with pytest.raises(BadLine):
        parse(b"[" * 200_000, set())


def test_a_full_queue_is_waited_for(engine: Engine, tmp_path: Path) -> None:
    (record,) = run_batch(tmp_path, line("a", prompt="busy"))
    assert record["response"]["status_code"] == 200 and engine.refusals == 2


def test_a_dead_engine_answers_every_line_and_fails(
    engine: Engine, tmp_path: Path, capsys: Capture
) -> None:
    engine.dead_reason = "killed by signal 9"
    (tmp_path / "in").write_text(json.dumps(line("a", prompt="busy")))
    words = ["-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--model", "m"]
    assert main(["run-batch", *words]) == 1
    assert "killed by signal 9" in capsys.readouterr().err
    assert json.loads((tmp_path / "out").read_text())["error"]["code"] == "queue_full"


def test_the_key_of_the_environment_is_sent(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAGODA_API_KEY", "k")
    run_batch(tmp_path, line("a"))
    assert engine.headers[0][b"authorization"] == b"Bearer k"


def test_stdin_to_stdout(
    engine: Engine, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = io.BytesIO(json.dumps(line("a")).encode())
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(data))
    assert main(["run-batch", "-i", "-", "-o", "-", "--model", "m"]) == 0
    assert json.loads(capfd.readouterr().out)["custom_id"] == "a"


def test_files_are_checked_before_the_model_loads(
    engine: Engine, tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / "in"
    path.write_text("{}")
    assert main(["run-batch", "-i", str(path), "-o", str(path), "--model", "m"]) == 1
    assert "is the input file too" in capsys.readouterr().err and path.read_text() == "{}"
    assert main(["run-batch", "-i", str(path), "-o", str(tmp_path), "--model", "m"]) == 1
    assert "cannot write" in capsys.readouterr().err
    assert main(["run-batch", "-i", str(tmp_path / "no"), "-o", "x", "--model", "m"]) == 1
    assert main(["run-batch", "-i", str(path)]) == 2


def test_a_crash_behind_a_route_is_that_requests_own(engine: Engine) -> None:
    body = json.dumps({"prompt": "crash"}).encode()
    status, _ = asyncio.run(post(engine, "/v1/completions", body, {}))
    assert status == 500
