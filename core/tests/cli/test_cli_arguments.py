"""Settings records to options and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from pagoda.cli.arguments import Parser, given, options_of, scalar
from pagoda.cli.engine_options import EngineOptions
from pagoda.cli.main import main
from pagoda.cli.sampling_options import HELP, SamplingOptions
from pagoda.config import EngineConfig
from pagoda.platform.errors import InvalidValue
from pagoda.sampling.params import SamplingParams
from pagoda.server.settings import ServerSettings

Platforms = Any  # conftest's Platforms

API_ONLY = {
    "output_kind",
    "detokenize",
    "spaces_between_special_tokens",
    "bad_words_token_ids",
}
"""Fields of SamplingParams that the command line has no use for."""


def engine_config(*words: str) -> EngineConfig:
    parser = Parser("test", "")
    engine = EngineOptions(parser, words)
    return engine.config(parser.parse_args(list(words)))


def sampling(*words: str) -> dict[str, Any]:
    parser = Parser("test", "")
    options = SamplingOptions(parser)
    return options.chosen(parser.parse_args(list(words)))


@pytest.mark.parametrize(
    ("hint", "kind", "many"),
    [
        (int, int, False),
        (int | None, int, False),
        (float | None, float, False),
        (bool | None, bool, False),
        (str, str, False),
        (list[str] | None, str, True),
        (str | list[str] | None, str, True),
        (tuple[str, ...], str, True),
        (list[list[int]], None, False),
        (dict[int, float] | None, None, False),
        (Mapping[str, object], None, False),
    ],
)
def test_what_lies_behind_an_annotation(hint: Any, kind: type | None, many: bool) -> None:
    assert scalar(hint) == (kind, many)


def test_no_words_give_the_defaults() -> None:
    assert engine_config() == EngineConfig()
    assert sampling() == {}
    server = options_of(ServerSettings)
    parser = Parser("test", "")
    for option in server:
        option.add_to(parser)
    assert ServerSettings(**given(server, parser.parse_args([]))) == ServerSettings()


def test_every_setting_has_an_option() -> None:
    names = {option.name for option in options_of(EngineConfig)}
    fields = {field.name for field in dataclasses.fields(EngineConfig)}
    assert fields - names == {"platform_options"}


def test_every_sampling_field_is_an_option_or_known_to_be_none() -> None:
    fields = {field.name for field in msgspec.structs.fields(SamplingParams)}
    assert set(HELP) | API_ONLY == fields and not set(HELP) & API_ONLY


def test_values_arrive_under_their_names() -> None:
    config = engine_config(
        "--model", "m", "--max-num-batched-tokens", "16", "--no-enable-prefix-caching",
        "--async-scheduling", "--gpu-memory-utilization=0.5", "-tp", "2",
    )  # fmt: skip
    assert config == EngineConfig(
        model="m",
        max_num_batched_tokens=16,
        enable_prefix_caching=False,
        async_scheduling=True,
        gpu_memory_utilization=0.5,
        tensor_parallel_size=2,
    )


def test_underscores_are_dashes_but_only_in_names() -> None:
    assert engine_config("--load_format=dummy", "--block_size", "8").block_size == 8
    assert engine_config("--model=my_model").model == "my_model"


def test_values_out_of_range_name_the_field() -> None:
    with pytest.raises(InvalidValue, match="block_size=0"):
        engine_config("--block-size", "0")


def test_lists_repeat_where_positionals_may_follow() -> None:
    chosen = sampling("--stop", "a", "--stop", "b", "--stop-token-ids", "3")
    assert chosen == {"stop": ["a", "b"], "stop_token_ids": [3]}


def test_lists_of_the_server_take_several_words() -> None:
    server = options_of(ServerSettings)
    parser = Parser("test", "")
    for option in server:
        option.add_to(parser)
    words = ["--served-model-name", "a", "b", "--served-model-name", "c", "--allowed-origins", "x"]
    settings = ServerSettings(**given(server, parser.parse_args(words)))
    assert settings.served_model_name == ("a", "b", "c")
    assert settings.allowed_origins == ("x",)


def test_json_options_become_what_the_field_holds() -> None:
    chosen = sampling("--logit-bias", '{"5": -1.5}', "--structured-outputs", '{"choice": ["a"]}')
    assert chosen["logit_bias"] == {5: -1.5}
    assert SamplingParams(**chosen).structured_outputs.choice == ["a"]  # type: ignore[union-attr]


@pytest.mark.parametrize("text", ["{", '{"x": 1}', "[]"])
def test_bad_json_is_a_usage_error(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--logit-bias", text, "hello"]) == 2
    assert "not valid JSON for logit_bias" in capsys.readouterr().err


PLATFORM_OPTIONS = """
    @hookimpl
    def pagoda_add_arguments(group):
        group.add_argument("--abacus-beads", type=int, default=10, help="how many")
        group.add_argument("--abacus_wood", default="oak")
"""


def test_the_named_platform_adds_its_options(platforms: Platforms) -> None:
    platforms.add("abacus", more=PLATFORM_OPTIONS)
    words = ["--device", "abacus:1", "--abacus-beads", "7", "--abacus_wood", "ash"]
    config = engine_config(*words)
    assert config.device == "abacus:1"
    assert config.platform_options == {"abacus_beads": 7, "abacus_wood": "ash"}
    assert engine_config("--device=abacus").platform_options == {}


def test_options_of_another_platform_say_whose_they_are(
    platforms: Platforms, capsys: pytest.CaptureFixture[str]
) -> None:
    platforms.add("abacus", more=PLATFORM_OPTIONS)
    platforms.add("sliderule")
    platforms.add_source("broken", "1 / 0")
    for words in ([], ["--device", "sliderule"]):
        assert main(["generate", "hi", *words, "--abacus-beads", "7"]) == 2
        assert "belongs to the platform 'abacus': add --device abacus" in capsys.readouterr().err


def test_only_the_named_platform_is_loaded(platforms: Platforms) -> None:
    platforms.add("abacus")
    platforms.add_source("broken", "raise SystemExit('loaded')")
    assert engine_config("--device", "abacus").device == "abacus"


def test_help_shows_the_options_of_all_platforms(
    platforms: Platforms, capsys: pytest.CaptureFixture[str]
) -> None:
    platforms.add("abacus", more=PLATFORM_OPTIONS)
    platforms.add_source("broken", "1 / 0")
    assert main(["serve", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "platform abacus (with --device abacus)" in shown and "--abacus-beads" in shown


def test_a_platform_whose_options_clash_is_told(
    platforms: Platforms, capsys: pytest.CaptureFixture[str]
) -> None:
    clash = '@hookimpl\ndef pagoda_add_arguments(group): group.add_argument("--model")'
    platforms.add("abacus", more=clash)
    assert main(["generate", "--device", "abacus", "hi"]) == 1
    assert "platform 'abacus': pagoda_add_arguments failed" in capsys.readouterr().err


def test_a_device_that_is_not_named_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "hi", "--device"]) == 2
    assert capsys.readouterr().err.count("expected one argument") == 1


def test_a_device_that_is_not_there(
    platforms: Platforms, capsys: pytest.CaptureFixture[str]
) -> None:
    platforms.add("abacus")
    assert main(["generate", "--device", "abakus", "hi"]) == 1
    assert "did you mean 'abacus'?" in capsys.readouterr().err
