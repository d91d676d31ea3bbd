"""Pick one of a table of commands and import it alone: ``pagoda`` and ``pagoda bench`` do this."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module


def dispatch(
    prog: str, summary: str, package: str, commands: Mapping[str, str], words: Sequence[str]
) -> int:
    """Run ``words[0]``, a key of ``commands`` (name: summary), which is a module of ``package``
    with ``run(words) -> int``; print the table when help is asked for."""
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview(prog, summary, commands), file=sys.stdout if words else sys.stderr)
        return 0 if words else 2
    name, *rest = words
    if name in commands:
        module = import_module(f"{package}.{name.replace('-', '_')}")
        return int(module.run(rest))
    near = difflib.get_close_matches(name.replace("_", "-"), commands, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"`{prog} --help` lists them"
    kind = "option" if name.startswith("-") else "command"
    print(f"error: unknown {kind} {name!r}; {hint}", file=sys.stderr)
    return 2


def _overview(prog: str, summary: str, commands: Mapping[str, str]) -> str:
    width = max(map(len, commands)) + 2
    table = "\n".join(f"  {name:<{width}}{text}" for name, text in commands.items())
    return (
        f"usage: {prog} COMMAND ...\n\n{summary}\n\n"
        f"commands:\n{table}\n\n`{prog} COMMAND --help` lists a command's options."
    )
