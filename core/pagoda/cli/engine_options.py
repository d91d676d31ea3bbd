"""The options of every command that runs an engine: EngineConfig's fields, and those that the
platform named by --device adds."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from pagoda import registry
from pagoda.cli.arguments import Option, Parser, given, options_of
from pagoda.config import EngineConfig
from pagoda.platform.errors import PagodaError

SHORT = {"tensor_parallel_size": "-tp", "quantization": "-q"}


class EngineOptions:
    """Adds the engine's options to a parser, then makes the EngineConfig of the parsed values."""

    def __init__(self, parser: Parser, words: Sequence[str], skip: Sequence[str] = ()):
        self.options: list[Option] = options_of(EngineConfig, skip=skip)
        group = parser.add_argument_group("engine")
        for option in self.options:
            option.add_to(group, short=SHORT.get(option.name, ""))
        self.platform_actions: list[argparse.Action] = []
        for platform in _platforms(words):
            title = f"platform {platform.info.name} (with --device {platform.info.name})"
            self.platform_actions += add_platform_options(parser, platform, title)
        parser.explain = _owner

    def config(self, args: argparse.Namespace, **changes: Any) -> EngineConfig:
        """The settings as given; of the platform's options those that differ from its defaults."""
        values = given(self.options, args)
        chosen = {
            action.dest: getattr(args, action.dest)
            for action in self.platform_actions
            if getattr(args, action.dest) != action.default
        }
        return EngineConfig(**{**values, "platform_options": chosen, **changes})


def add_platform_options(
    parser: argparse.ArgumentParser, platform: registry.Platform, title: str = ""
) -> list[argparse.Action]:
    """Let a platform add its group to ``parser``; the options it added."""
    group = parser.add_argument_group(title or platform.info.name)
    platform.ask("pagoda_add_arguments", group=group)
    return list(group._group_actions)


def name_model(config: EngineConfig) -> EngineConfig:
    """The config with the bundled model in it where none was named, which stderr is told."""
    if config.model:
        return config
    from pagoda.assets import storyteller

    path = storyteller()
    print(f"model: the bundled storyteller ({path}); --model chooses another", file=sys.stderr)
    return dataclasses.replace(config, model=str(path))


def _platforms(words: Sequence[str]) -> Iterator[registry.Platform]:
    """The platform that --device names; for --help all that load."""
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    peek.add_argument("--device", default="auto")
    peek.add_argument("-h", "--help", action="store_true")
    end = words.index("--") if "--" in words else len(words)
    try:
        known, _ = peek.parse_known_args(list(words[:end]))
    except argparse.ArgumentError:  # "--device" without a word; the real parser says so
        return
    if known.device != "auto":
        yield registry.find(known.device.partition(":")[0])
    elif known.help:
        yield from _loadable()


def _loadable() -> Iterator[registry.Platform]:
    for name in registry.installed():
        with contextlib.suppress(PagodaError):  # `pagoda platforms` tells why
            yield registry.find(name)


def _owner(option: str) -> str:
    """Which platform an unknown option belongs to, for the error message."""
    for platform in _loadable():
        scratch = argparse.ArgumentParser(add_help=False)
        actions = add_platform_options(scratch, platform)
        if any(option in action.option_strings for action in actions):
            name = platform.info.name
            return f"option {option!r} belongs to the platform {name!r}: add --device {name}"
    return ""
