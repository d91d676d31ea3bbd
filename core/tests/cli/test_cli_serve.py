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


def test_a_model_behind_a_flag_of_several_values_is_not_taken_for_one(
    served: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--api-key", "token-abc123", "owner/model"]) == 2
    said = capsys.readouterr().err
    assert "'owner/model'" in said and "--api-key" in said and "--model owner/model" in said
    assert served == []
    assert main(["serve", "m", "--served-model-name", "a", "b"]) == 0
    assert main(["serve", "--api-key", "a", "--api-key", "b"]) == 0
    (_, names), (_, keys) = served
    assert names.served_model_name == ("a", "b") and keys.api_key == ("a", "b")


def test_settings_out_of_range_name_the_field(
    served: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "m", "--port", "70000"]) == 1
    assert "port=70000" in capsys.readouterr().err
