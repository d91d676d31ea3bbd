"""What ``pagoda serve`` hands to the server."""

from __future__ import annotations

import sys
import types
from pathlib import Path
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


@pytest.fixture
def yaml(tmp_path: Path) -> Path:
    path = tmp_path / "serve.yaml"
    path.write_text(
        "model: owner/model\nport: 8001\nmax-model-len: 64\nserved_model_name: [a, no]\n"
        "api_key: 0123  # stays what it is\nenable_prefix_caching: false\ndebug: false\n"
        "revision: null\nlog_level: warning\n"
    )
    return path


def test_options_of_a_file(served: list[Any], yaml: Path) -> None:
    assert main(["serve", "--config", str(yaml)]) == 0
    ((config, settings),) = served
    assert (config.model, config.max_model_len, config.revision) == ("owner/model", 64, None)
    assert not config.enable_prefix_caching and config.enable_chunked_prefill
    assert (settings.port, settings.log_level) == (8001, "warning")
    assert (settings.served_model_name, settings.api_key) == (("a", "no"), ("0123",))


def test_the_command_line_wins_over_the_file(served: list[Any], yaml: Path) -> None:
    words = ["--port=8000", "--served-model-name", "b", "--enable-prefix-caching"]
    assert main(["serve", "another/model", "--config", str(yaml), *words]) == 0
    ((config, settings),) = served
    assert (config.model, config.max_model_len, settings.port) == ("another/model", 64, 8000)
    assert settings.served_model_name == ("b",) and config.enable_prefix_caching


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("port: 1\nmax_model_length: 5", ":2: unknown key 'max_model_length'; did you mean 'max-m"),
        ("config: x", ":1: unknown key 'config'"),
        ("no-async-scheduling: true", ":1: unknown key 'no-async-scheduling'; did you mean 'async"),
        ("port: high", ":1: argument --port: invalid int value: 'high'"),
        ("dtype: [float32, float16]", ":1: dtype takes one value, and not 2"),
        ("dtype: float7", ":1: argument --dtype: invalid choice: 'float7'"),
        ("debug: 2", ":1: debug must be true or false"),
        ("api_key:", ":1: 'api_key' must have a value"),
        ("api_key: {a: b}", ":1: 'api_key' must have a value"),
        ("port: 1\nport: 2", ":2: 'port' is there twice"),
        ("[port, 1]", ": must be a mapping"),
        ("port: [", ":1: no YAML: "),
        ("\x00", ": no YAML: "),
    ],
)
def test_what_is_wrong_in_a_file_is_told_with_its_place(
    served: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    (tmp_path / "serve.yaml").write_text(text)
    assert main(["serve", "m", "--config", str(tmp_path / "serve.yaml")]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'serve.yaml'}{said}")
    assert served == []


def test_a_file_that_is_not_there(served: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--config", "no/such.yaml"]) == 2
    assert "--config no/such.yaml: No such file" in capsys.readouterr().err and served == []
