"""Turn settings records into command-line options and back: names, types, choices and help are
written once, in the record.  What the options mean is the commands' business."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NoReturn

METAVARS = {int: "N", float: "X", str: "TEXT"}


class HelpFormatter(argparse.HelpFormatter):
    """Shows the defaults that say something."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=32)

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        silent = action.default in (None, "", [], argparse.SUPPRESS) or action.nargs == 0
        toggles = isinstance(action, argparse.BooleanOptionalAction)
        if "%(default)" in text or (silent and not toggles) or action.default is None:
            return text
        return f"{text} (default: %(default)s)"


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that takes underscores for dashes and names the nearest option to a
    misspelt one."""

    def __init__(self, prog: str, description: str, positional: str = ""):
        """``positional``: what stands behind the options in the usage line."""
        super().__init__(
            prog=prog,
            usage=f"%(prog)s [OPTION ...] {positional}".rstrip(),
            description=description,
            formatter_class=HelpFormatter,
            allow_abbrev=False,
        )
        self.positional = positional
        self.source = ""  # where the words to be parsed come from, for errors
        self.explain: Callable[[str], str] = lambda option: ""  # knows more about unknown options
        self.add_argument("--debug", action="store_true", help="show tracebacks and debug logs")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does; words that belong to no option are ``positional``, in their order,
        wherever they stand (argparse allows that only without ``--``)."""
        words = list(args or [])
        end = words.index("--") if "--" in words else len(words)
        parsed, rest = super().parse_known_args(self._dashed(words[:end]), namespace)
        misspelt = [word for word in rest if _looks_like_option(word)]
        parsed.positional = [*rest, *words[end + 1 :]]
        if misspelt or (parsed.positional and not self.positional):
            self.error(self.explain_unknown((misspelt or parsed.positional)[0]))
        return parsed

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {self.source}{message}\n(`{self.prog} --help` lists the options)\n")

    def explain_unknown(self, word: str) -> str:
        """What to say about an argument that nobody took."""
        name = word.partition("=")[0]
        if not _looks_like_option(word):
            return f"unexpected argument {word!r}"
        explained = self.explain(name)
        if explained:
            return explained
        near = difflib.get_close_matches(name, self._option_string_actions, n=1)
        return f"unknown option {name!r}" + (f"; did you mean {near[0]!r}?" if near else "")

    def _dashed(self, words: list[str]) -> list[str]:
        for i, word in enumerate(words):
            name, equals, value = word.partition("=")
            if name.startswith("--") and name not in self._option_string_actions:
                words[i] = name.replace("_", "-") + equals + value
        return words


class Several(argparse.Action):
    """Several values after one flag, added up to a list, in place of a tuple that stood there; the
    last one of them is noted with its flag in ``namespace.last_of_several``, since it may have been
    meant as a positional argument."""

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, flag: str | None = None
    ) -> None:
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, [*(before if isinstance(before, list) else ()), *values])
        if len(values) > 1:
            namespace.last_of_several = flag, values[-1]


def _looks_like_option(word: str) -> bool:
    """``-x`` or ``--x=y``, and neither ``-`` nor a text such as ``- eggs``."""
    name = word.partition("=")[0]
    return name.startswith("-") and name != "-" and " " not in name


@dataclasses.dataclass(frozen=True)
class Option:
    """One field of a settings record, as the command line needs it."""

    name: str
    hint: Any  # the resolved type annotation
    default: Any
    help: str
    choices: Sequence[str] = ()

    def add_to(
        self, group: argparse._ActionsContainer, short: str = "", repeat: bool = False
    ) -> None:
        """Add ``--name`` to ``group``.  Lists take several values after one flag, or with
        ``repeat`` one value a flag (where positional arguments may follow)."""
        flags = [*([short] if short else []), "--" + self.name.replace("_", "-")]
        text = self.help.replace("%", "%%")
        options: dict[str, Any] = {"dest": self.name, "default": self.default, "help": text}
        kind, many = scalar(self.hint)
        if kind is bool:
            options["action"] = argparse.BooleanOptionalAction
        elif kind is None:
            options |= {"type": self._decode, "metavar": "JSON"}
        else:
            options |= {"type": kind, "metavar": METAVARS[kind]}
            if self.choices:
                options |= {"choices": self.choices, "metavar": None}
        if many:
            options |= {"action": "append"} if repeat else {"action": Several, "nargs": "+"}
            options["default"] = None  # argparse would append to the default itself
        group.add_argument(*flags, **options)

    def _decode(self, text: str) -> object:
        import msgspec

        try:
            return msgspec.json.decode(text, type=self.hint)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise argparse.ArgumentTypeError(f"not valid JSON for {self.name}: {error}") from error


def scalar(hint: Any) -> tuple[type | None, bool]:
    """The plain type behind an annotation and whether it may be given several times; (None, False)
    when only JSON can say it."""
    members = [hint]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        members = [m for m in typing.get_args(hint) if m is not type(None)]
    for member in members:
        if typing.get_origin(member) in (list, tuple, Sequence, typing.Sequence):
            items = [i for i in typing.get_args(member) if i is not Ellipsis]
            kind = items[0] if len(items) == 1 else None
            return (kind, True) if kind in METAVARS else (None, False)
    if bool in members:
        return bool, False
    return next(((kind, False) for kind in (str, float, int) if kind in members), (None, False))


def options_of(record: type, skip: Collection[str] = ()) -> list[Option]:
    """The options that a settings dataclass declares, in its order.  Mappings have none."""
    hints = typing.get_type_hints(record)
    options = []
    for field in dataclasses.fields(record):
        hint = hints[field.name]
        if field.name in skip or typing.get_origin(hint) in (dict, Mapping):
            continue
        default = field.default
        if default is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        facts = field.metadata
        option = Option(field.name, hint, default, facts["help"], facts.get("choices", ()))
        options.append(option)
    return options


def given(options: Sequence[Option], args: argparse.Namespace) -> dict[str, Any]:
    """The values that ``args`` holds for ``options``, lists in the record's own kind."""
    values = {}
    for option in options:
        value = getattr(args, option.name)
        if isinstance(value, list):
            value = tuple(value) if typing.get_origin(option.hint) is tuple else value
        elif value is None:
            value = option.default
        values[option.name] = value
    return values
