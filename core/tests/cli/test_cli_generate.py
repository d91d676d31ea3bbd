"""What ``pagoda generate`` reads and prints."""

from __future__ import annotations

import io
import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from pagoda.cli.main import main

Capture = pytest.CaptureFixture[str]
Made = list[Any]  # conftest's FakeLLMs


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Any:
    def give(data: bytes) -> None:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))

    return give


def generate(*words: str) -> int:
    return main(["generate", "--model", "m", *words])


def prompts(made: Made) -> list[Any]:
    given = made[-1].calls[-1][0]
    return given if isinstance(given, list) else [given]


def test_one_prompt_is_streamed_as_text(made: Made, capsys: Capture) -> None:
    assert generate("hello") == 0
    captured = capsys.readouterr()
    assert captured.out == "HELLO\n" and captured.err == ""
    assert made[0].closed


def test_a_text_that_ends_its_line_gets_no_second_end(made: Made, capsys: Capture) -> None:
    generate("hi\n")
    assert capsys.readouterr().out == "HI\n"


def test_json_has_one_object_a_prompt_in_order(made: Made, capsys: Capture) -> None:
    assert generate("--json", "a", "", "c") == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["prompt"] for record in records] == ["a", "", "c"]
    assert records[0] == {
        "prompt": "a",
        "text": "A",
        "token_ids": [65],
        "finish_reason": "length",
        "num_cached_tokens": 3,
    }


def test_json_says_which_of_several_continuations(made: Made, capsys: Capture) -> None:
    generate("--json", "--n", "2", "a", "b")
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(r["prompt"], r["index"]) for r in records] == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]


def test_json_has_logprobs_when_asked(made: Made, capsys: Capture) -> None:
    generate("--json", "--logprobs", "0", "a")
    (position,) = json.loads(capsys.readouterr().out)["logprobs"]
    assert position == [{"token_id": 65, "logprob": -0.5, "rank": 1, "decoded_token": "A"}]


def test_several_prompts_are_told_apart(made: Made, capsys: Capture) -> None:
    generate("a", "b")
    assert capsys.readouterr().out == "==> a <==\nA\n\n==> b <==\nB\n\n"


def test_token_ids_are_prompts_too(made: Made, capsys: Capture) -> None:
    generate("--json", "--prompt-token-ids", "104,105", "--prompt-token-ids", "97")
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first["prompt"] is None and first["prompt_token_ids"] == [104, 105]
    assert second["text"] == "A"


@pytest.mark.parametrize("words", [(), ("-",), ("--file", "-")])
def test_stdin_is_one_prompt(made: Made, stdin: Any, words: tuple[str, ...]) -> None:
    stdin("zwei\nZeilen ü\n".encode())
    assert generate(*words) == 0
    assert prompts(made) == [{"prompt": "zwei\nZeilen ü"}]


def test_lines_are_a_prompt_each(made: Made, stdin: Any) -> None:
    stdin(b"a\r\n\nb\n")
    generate("--lines")
    assert [p["prompt"] for p in prompts(made)] == ["a", "", "b"]


def test_a_file_comes_after_the_arguments(made: Made, tmp_path: Path) -> None:
    path = tmp_path / "prompts"
    path.write_text("x\ny\n")
    generate("first", "--file", str(path), "--lines", "second")
    assert [p["prompt"] for p in prompts(made)] == ["first", "second", "x", "y"]


def test_a_prompt_may_look_like_an_option(made: Made, capsys: Capture) -> None:
    assert generate("--max-tokens", "3", "--", "--max_tokens") == 0
    assert generate("- eggs") == 0
    assert capsys.readouterr().out == "--MAX_TOKENS\n- EGGS\n"
    assert generate("a", "--max-tokes=a b") == 2


@pytest.mark.parametrize("data", [b"\xff\xfe", None])
def test_what_cannot_be_read_is_told(
    made: Made, stdin: Any, capsys: Capture, tmp_path: Path, data: bytes | None
) -> None:
    if data is None:
        assert generate("--file", str(tmp_path / "none")) == 1
        assert "cannot read" in capsys.readouterr().err
    else:
        stdin(data)
        assert generate() == 1
        assert "stdin is not UTF-8" in capsys.readouterr().err


def test_choices_stand_over_the_models_defaults(made: Made) -> None:
    generate("--temperature", "0", "--seed", "5", "--stop", "x", "a")
    params = made[0].calls[0][1]
    assert (params.temperature, params.seed, params.stop) == (0.0, 5, ["x"])
    assert (params.top_p, params.max_tokens) == (0.75, 256)
    generate("--min-tokens", "300", "a")
    assert made[1].calls[0][1].max_tokens == 300


def test_engine_settings_arrive(made: Made) -> None:
    generate("--block-size", "8", "--num-blocks", "20", "--device", "reference", "a")
    settings = made[0].settings
    assert settings["model"] == "m" and settings["device"] == "reference"
    assert (settings["block_size"], settings["num_blocks"]) == (8, 20)


@pytest.mark.parametrize("words", [("--temperature", "nan"), ("--max-tokens", "0"), ("--n", "0")])
def test_bad_values_name_the_field(made: Made, capsys: Capture, words: tuple[str, ...]) -> None:
    assert generate(*words, "a") == 1
    captured = capsys.readouterr()
    assert words[0].strip("-").replace("-", "_") in captured.err and captured.out == ""
    assert not made  # no model was loaded for that


def test_a_refused_prompt_is_an_error(made: Made, capsys: Capture) -> None:
    assert generate("") == 1
    assert capsys.readouterr().err == "error: prompt='': must have at least one token\n"


def test_words_that_are_no_token_ids(capsys: Capture) -> None:
    assert main(["generate", "--prompt-token-ids", "1,2,x"]) == 2
    assert "'1,2,x' are no token ids" in capsys.readouterr().err


def test_a_failed_request_is_told_beside_the_others(
    made: Made, fake_llm: Any, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate_all = fake_llm.generate

    def fail_second(*arguments: Any, **options: Any) -> Any:
        outputs = generate_all(*arguments, **options)
        outputs[1].error = "no such grammar"
        return outputs

    monkeypatch.setattr(fake_llm, "generate", fail_second)
    assert generate("--json", "a", "b") == 1
    captured = capsys.readouterr()
    assert captured.err == "error: no such grammar\n"
    errors = [json.loads(line).get("error") for line in captured.out.splitlines()]
    assert errors == [None, "no such grammar"]


def test_without_a_model_the_bundled_one_is_named(
    made: Made, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    module: Any = types.ModuleType("pagoda.assets")
    module.storyteller = lambda: Path("somewhere")
    monkeypatch.setitem(sys.modules, "pagoda.assets", module)
    assert main(["generate", "a"]) == 0
    captured = capsys.readouterr()
    assert made[0].settings["model"] == "somewhere" and captured.out == "A\n"
    (line,) = captured.err.splitlines()
    assert "somewhere" in line and "--model chooses another" in line
