"""``--config FILE``: a command's long options as a YAML mapping; the command line wins over it."""

from __future__ import annotations

import argparse
import contextlib
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pagoda.cli.arguments import Parser, Several

SWITCHES = {"true": True, "false": False}


@dataclass(frozen=True)
class Entry:
    """One key of a file with its values as text; none for null: the option is left alone."""

    where: str  # file and line
    key: str
    values: list[str]

    @property
    def flag(self) -> str:
        return "--" + self.key.replace("_", "-")


class ConfigFile:
    """The file that ``--config`` names in ``words``, an option that ``parser`` gets here; without
    it, no entries."""

    def __init__(self, parser: Parser, words: Sequence[str]):
        text = "YAML file of these options, such as `port: 8080`; what stands here beside it wins"
        parser.add_argument("--config", metavar="FILE", help=text)
        self._parser = parser
        path = _named(words)
        self.entries = [] if path is None else self._read(path)

    def words(self, key: str) -> list[str]:
        """What the file says of one option, as words of a command line."""
        return [f"{e.flag}={value}" for e in self.entries for value in e.values if e.key == key]

    def namespace(self) -> argparse.Namespace:
        """The values of all options without the command line, to be parsed on top of these.  The
        parser has all its options by now; a key that is none of them is an error."""
        parser = self._parser
        found: argparse.Namespace = parser.parse_args([])
        for entry in self.entries:
            parser.source = f"{entry.where}: "
            action = parser._option_string_actions.get(entry.flag)
            if action is None or entry.flag not in self._keys():
                parser.error(self._unknown(entry))
            parser.parse_args(self._words(entry, action), found)
        parser.source = ""
        for action in parser._actions:
            if isinstance(action, Several):  # to be replaced by the command line's, not added to
                setattr(found, action.dest, tuple(getattr(found, action.dest) or ()) or None)
        return found

    def _words(self, entry: Entry, action: argparse.Action) -> list[str]:
        if action.nargs == 0:
            if any(value.lower() not in SWITCHES for value in entry.values):
                self._parser.error(f"{entry.key} must be true or false")
            on = all(SWITCHES[value.lower()] for value in entry.values)
            words = [entry.flag if on else entry.flag.replace("--", "--no-", 1)]
            return [word for word in words if entry.values and word in action.option_strings]
        if len(entry.values) > 1 and not isinstance(action, Several):
            self._parser.error(f"{entry.key} takes one value, and not {len(entry.values)}")
        return [f"{entry.flag}={value}" for value in entry.values]

    def _keys(self) -> list[str]:
        flags = (f for f in self._parser._option_string_actions if f.startswith("--"))
        return [f for f in flags if f not in ("--help", "--config") and not f.startswith("--no-")]

    def _unknown(self, entry: Entry) -> str:
        explained = self._parser.explain(entry.flag)
        near = difflib.get_close_matches(entry.flag, self._keys(), n=1)
        hint = f"; did you mean {near[0][2:]!r}?" if near else ""
        return f"unknown key {entry.key!r}" + (f"; {explained}" if explained else hint)

    def _read(self, path: str) -> list[Entry]:
        import yaml

        try:
            root = yaml.compose(Path(path).read_bytes(), Loader=yaml.SafeLoader)
        except OSError as error:
            self._parser.error(f"--config {path}: {error.strerror}")
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = path if mark is None else f"{path}:{mark.line + 1}"
            self._parser.error(f"{where}: no YAML: {getattr(error, 'problem', None) or error}")
        if root is not None and not isinstance(root, yaml.MappingNode):
            self._parser.error(f"{path}: must be a mapping of options to values")
        entries: dict[str, Entry] = {}
        for key, value in root.value if root else ():
            where = f"{path}:{key.start_mark.line + 1}"
            values = _texts(value)
            if values is None:
                allowed = "must have a value or a list of values; null leaves the option alone"
                self._parser.error(f"{where}: {key.value!r} {allowed}")
            entry = Entry(where, str(key.value), values)
            if entry.flag in entries:
                self._parser.error(f"{where}: {entry.key!r} is there twice")
            entries[entry.flag] = entry
        return list(entries.values())


def _texts(node: Any) -> list[str] | None:
    """A value's text, or those of a list's values; None for what is neither.  What a text means is
    for the option to say, so that a name such as `no` or a key such as 0123 stays what it is."""
    if node.id == "scalar":
        null = node.tag.endswith(":null")
        return None if null and not node.value else [] if null else [node.value]
    if node.id == "sequence" and all(item.id == "scalar" for item in node.value):
        return [item.value for item in node.value]
    return None


def _named(words: Sequence[str]) -> str | None:
    """The file that a command line names; the parser itself finds what is wrong with it."""
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    peek.add_argument("--config")
    end = words.index("--") if "--" in words else len(words)
    with contextlib.suppress(argparse.ArgumentError):
        named: str | None = peek.parse_known_args(list(words[:end]))[0].config
        return named
    return None
