"""Conversations read line by line."""

from __future__ import annotations

import io
import os
import signal
from typing import Any

import pytest

from pagoda.cli.main import main
from pagoda.platform.errors import InvalidValue

Capture = pytest.CaptureFixture[str]
Made = list[Any]  # conftest's FakeLLMs


def chat(monkeypatch: pytest.MonkeyPatch, text: str, *words: str) -> int:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    return main(["chat", "--model", "m", *words])


def test_the_conversation_grows(
    made: Made, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert chat(monkeypatch, "a\n\nb\n") == 0
    first, second = (prompt["prompt"] for prompt, _ in made[0].calls)
    assert first == "user:a"
    assert second == "user:a|assistant:USER:A|user:b"
    assert capsys.readouterr().out.splitlines()[0] == "USER:A"


def test_special_tokens_are_the_templates_business(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat(monkeypatch, "a\n")
    prompt = made[0].calls[0][0]
    assert prompt["prompt_token_ids"] == [ord(c) for c in prompt["prompt"]]


def test_system_reset_and_exit(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "a\n/reset\nb\n/system be kind\nc\n/exit\nd\n"
    chat(monkeypatch, lines, "--system", "be brief")
    said = [prompt["prompt"] for prompt, _ in made[0].calls]
    assert said[0] == "system:be brief|user:a"
    assert said[1] == "system:be brief|user:b"
    assert said[2].startswith("system:be kind|user:b|") and len(said) == 3


def test_help_and_unknown_commands_go_to_stderr(
    made: Made, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat(monkeypatch, "/help\n/helo\n/system\n")
    captured = capsys.readouterr()
    assert captured.out == "" and made[0].calls == []
    assert "/reset" in captured.err and "there is no /helo" in captured.err


def test_a_template_of_the_users(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    chat(monkeypatch, "a\n", "--chat-template", "{{x}}")
    assert made[0].calls[0][0]["prompt"] == "{{x}}user:a"


def test_a_failed_turn_is_forgotten(
    made: Made, fake_llm: Any, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = fake_llm.stream

    def refuse_bad(self: Any, prompt: Any, params: Any) -> Any:
        if "bad" in prompt["prompt"]:
            raise InvalidValue("prompt", "999 tokens", "too long")
        return stream(self, prompt, params)

    monkeypatch.setattr(fake_llm, "stream", refuse_bad)
    assert chat(monkeypatch, "bad\ngood\n") == 1  # a script must hear of it
    captured = capsys.readouterr()
    assert "too long" in captured.err and captured.out == "USER:GOOD\n"


def test_ctrl_c_stops_the_answer_and_not_the_program(
    made: Made, fake_llm: Any, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = fake_llm.stream
    closed = []

    def interrupted(self: Any, prompt: Any, params: Any) -> Any:
        try:
            for i, output in enumerate(stream(self, prompt, params)):
                if i == 2:
                    os.kill(os.getpid(), signal.SIGINT)
                yield output
        finally:
            closed.append(prompt["prompt"])

    monkeypatch.setattr(fake_llm, "stream", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in background jobs
    try:
        assert chat(monkeypatch, "a\nb\n") == 0
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().out.splitlines() == ["US", "US"]
    assert closed == ["user:a", "user:a|assistant:US|user:b"]
