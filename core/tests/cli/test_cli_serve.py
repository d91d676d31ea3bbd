"""What ``pagoda serve`` hands to the server."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest

from pagoda.cli.main import main


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The (config, settings) that the server was run with."""
    calls: list[Any] = []

    def run(config: Any, settings: Any) -> int:
        calls.append((config, settings))
        return 0

    module: Any = types.ModuleType("pagoda.server.serve")
    module.run = run
    monkeypatch.setitem(sys.modules, "pagoda.server.serve", module)
    return calls


def test_the_quickstarts_command(served: list[Any]) -> None:
    words = ["serve", "owner/model", "--dtype", "auto", "--api-key", "token-abc123"]
    assert main([*words, "--chat-template", "./template_chatml.jinja", "--max_model_len=64"]) == 0
    ((config, settings),) = served
    assert (config.model, config.dtype, config.max_model_len) == ("owner/model", "auto", 64)
    assert settings.api_key == ("token-abc123",)
    assert settings.chat_template == "./template_chatml.jinja"


@pytest.mark.parametrize("words", [["m"], ["--model", "m"], ["m", "--model", "m"], ["--", "m"]])
def test_the_model_may_be_named_either_way(served: list[Any], words: list[str]) -> None:
    assert main(["serve", *words]) == 0
    assert served[0][0].model == "m"


def test_two_models_are_one_too_many(served: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "a", "--model", "b"]) == 2
    assert "more than one model: a, b" in capsys.readouterr().err and served == []


def test_settings_out_of_range_name_the_field(
    served: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "m", "--port", "70000"]) == 1
    assert "port=70000" in capsys.readouterr().err
