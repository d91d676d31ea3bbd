"""``pagoda new-backend``: write the distribution of a new platform."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pagoda.cli.arguments import Parser
from pagoda.new_backend.write import write


def run(words: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    parser = Parser(
        "pagoda new-backend",
        "Write a new platform's distribution: it installs, and the conformance kit says what to"
        " write in it, step by step.",
        positional="NAME",
    )
    parser.add_argument("--into", metavar="DIR", default=".", help="folder to put pagoda-NAME into")
    args = parser.parse_args(words)
    if len(args.positional) != 1:
        parser.error(f"one NAME is wanted, {len(args.positional)} were given")
    name = args.positional[0]
    folder = write(name, Path(args.into))
    shown = folder if folder.is_absolute() else f"./{folder}"  # pip takes "name[test]" for a name
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        print(file)
    print(f"\nnext:\n  pip install -e '{shown}[test]'\n  pytest --pagoda-platform {name}")
    return 0
