"""What the documents say is there: commands and options, hooks and fields, the files they link."""

from __future__ import annotations

import re
import shlex
import sys
from functools import cache
from pathlib import Path

import pytest
from installed import ROOT, pagoda_command, run

from pagoda.cli.main import COMMANDS
from pagoda.platform import ScheduledBatch, hookspecs

GUIDE = ROOT / "platforms" / "README.md"
FOLDERS = ("*.md", "[a-z]*/*.md", "[a-z]*/[a-z]*/*.md", "core/pagoda/**/*.md")
DOCUMENTS = sorted({path for pattern in FOLDERS for path in ROOT.glob(pattern)})


def commands(text: str) -> list[str]:
    """Command lines of indented blocks, without comments; ``a && b`` is two."""
    lines = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    return [part for line in lines for part in line.partition("  #")[0].split(" && ")]


@cache
def help_of(*words: str) -> str:
    return pagoda_command(*words, "--help").stdout


@cache
def help_of_the_kit() -> str:
    return run(sys.executable, "-m", "pytest", "--help", cwd=ROOT).stdout


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", document.read_text())
    assert not [link for link in links if not (document.parent / link).exists()]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_and_options_exist(document: Path) -> None:
    for line in commands(document.read_text()):
        program, *words = shlex.split(line) or [""]
        options = [word.partition("=")[0] for word in words if word.startswith("--")]
        if program == "pagoda" and words and not words[0].startswith("-"):
            names = words[:2] if words[0] == "bench" else words[:1]
            assert names[0] in COMMANDS, line
            assert not [option for option in options if option not in help_of(*names)], line
        elif program == "pytest":
            mine = [option for option in options if option.startswith("--pagoda")]
            assert not [option for option in mine if option not in help_of_the_kit()], line


def test_what_is_in_ci_is_listed_there() -> None:
    there = [path for path in (ROOT / "ci").iterdir() if path.suffix in (".sh", ".py", "")]
    names = [f"`{path.name}{'/' * path.is_dir()}`" for path in there if path.name[0].isalpha()]
    text = (ROOT / "ci" / "README.md").read_text()
    assert names and not [name for name in names if name not in text]


def test_the_guide_knows_the_contract() -> None:
    text = GUIDE.read_text()
    hooks = set(re.findall(r"`(pagoda_[a-z_]+)`", text)) - {"pagoda_abacus"}
    declared = {name for name, value in vars(hookspecs).items() if hasattr(value, "pagoda_spec")}
    assert hooks == declared - {"pagoda_step_finished"}  # for observers, not for platforms
    table = text.partition("| field |")[2].partition("\n\n")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    fields = {name for cell in cells for name in re.findall(r"`(\w+)", cell)}
    assert fields and not [name for name in fields if not _is_field(name)]


def _is_field(name: str) -> bool:
    return name in ScheduledBatch.__dataclass_fields__ or hasattr(ScheduledBatch, name)
