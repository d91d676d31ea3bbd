"""House style as far as a machine can hold it: sizes, names, docstrings, what lies where."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
from pathlib import Path

import pytest
from installed import ROOT

FAMILIES = ("core", "platforms", "kernels", "plugins", "tests", "ci")
TOP_LEVEL = {".ci", ".gitignore", "LICENSE", "README.md", "pyproject.toml", *FAMILIES}
FILE_LINES, MEDIAN_LINES, FUNCTION_LINES, PLUGIN_LINES, CONTRACT_LINES = 500, 120, 80, 120, 800
VAGUE = {"utils", "util", "helpers", "helper", "common", "misc"}
EMPTY_NAMES = re.compile(r"Base[A-Z]\w*|\w+(Impl|Manager|Mixin)")

# What the repository never speaks of: it knows the project alone.  Put together here, so that this
# file passes its own test.
SLASH = "/"
WORKPLACE = re.compile(
    "|".join(
        (
            rf"(?<![\w.]){SLASH}work{SLASH}",
            rf"(?<![\w.]){SLASH}root{SLASH}",
            rf"(?<![\w.]){SLASH}opt{SLASH}(pypi|wheels)",
            rf"shared{SLASH}(facts|bench|hooks)",
            r"\bHELPERS" + r"\.md\b",
            r"\bDESIGN" + r"(\.md| section)",
            r"\bissues" + r" (show|list)\b",
            r"(?i:\bissue" + r" #?\d)",
            r"\bfiles\.python" + r"hosted\.org\b",
        )
    )
)

# (path, rule): the reason.
WAIVERS: dict[tuple[str, str], str] = {}


def tracked() -> list[Path]:
    """Every file of the repository, with what is about to be added."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).is_file()]


def modules() -> list[Path]:
    found = (path for family in FAMILIES for path in (ROOT / family).rglob("*.py"))
    return sorted(path for path in found if not {"build", "dist", ".venv"} & set(path.parts))


def num_lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def excused(path: Path, rule: str) -> bool:
    return (str(path.relative_to(ROOT)), rule) in WAIVERS


def violations(path: Path, source: str) -> list[str]:
    """What is wrong with one module, each with the name of its rule in front."""
    tree = ast.parse(source)
    found = []
    lines = len(source.splitlines())
    limit = PLUGIN_LINES if path.name == "plugin.py" and "conformance" not in path.parts else 0
    if lines > (limit or FILE_LINES):
        found.append(f"length: {lines} lines, {limit or FILE_LINES} are allowed")
    if not ast.get_docstring(tree):
        found.append("docstring: the module has none")
    if {path.stem, *path.parent.parts} & VAGUE:
        found.append("name: says nothing of what is inside")
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES:
                found.append(f"function: {node.name} has {length} lines")
        if isinstance(node, ast.ClassDef) and EMPTY_NAMES.fullmatch(node.name):
            found.append(f"class: {node.name} says nothing of what it is")
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_module(path: Path) -> None:
    found = violations(path.relative_to(ROOT), path.read_text(encoding="utf-8"))
    assert not [text for text in found if not excused(path, text.partition(":")[0])]


@pytest.mark.parametrize(
    ("path", "source", "rule"),
    [
        ("a/plan.py", '"""x"""\n' + "a = 1\n" * FILE_LINES, "length"),
        ("a/plugin.py", '"""x"""\n' + "a = 1\n" * PLUGIN_LINES, "length"),
        ("a/plan.py", "a = 1\n", "docstring"),
        ("a/utils.py", '"""x"""\n', "name"),
        ("common/plan.py", '"""x"""\n', "name"),
        ("a/plan.py", '"""x"""\ndef f():\n' + "    a = 1\n" * FUNCTION_LINES, "function"),
        ("a/plan.py", '"""x"""\nclass BaseRunner: pass\n', "class"),
        ("a/plan.py", '"""x"""\nclass BlockManager: pass\n', "class"),
        ("a/plan.py", '"""x"""\nclass Baseline: pass\nclass Implement: pass\n', ""),
    ],
)
def test_each_rule_sees_a_violation(path: str, source: str, rule: str) -> None:
    found = [text.partition(":")[0] for text in violations(Path(path), source)]
    assert found == ([rule] if rule else [])


def test_the_contract_is_read_in_one_sitting() -> None:
    files = sorted((ROOT / "core" / "pagoda" / "platform").glob("*.py"))
    assert sum(map(num_lines, files)) <= CONTRACT_LINES


def test_most_files_are_small() -> None:
    sizes = [num_lines(path) for path in modules() if path.name != "__init__.py"]
    assert statistics.median(sizes) <= MEDIAN_LINES


def test_only_what_belongs_at_the_top_is_there() -> None:
    found = {path.relative_to(ROOT).parts[0] for path in tracked()}
    assert found <= TOP_LEVEL


def test_the_repository_speaks_of_the_project_alone() -> None:
    found = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if WORKPLACE.search(line) and not excused(path, "workplace"):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert not found


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("see " + SLASH + "work" + SLASH + "x", True),
        ("DESIGN" + " section 4", True),
        ("as issue" + " 12 says", True),
        ("shared" + SLASH + "facts", True),
        ("core/work/x, shared/assets, a design, an issue", False),
    ],
)
def test_workplace_words_are_seen(text: str, seen: bool) -> None:
    assert bool(WORKPLACE.search(text)) == seen


def test_waivers_are_needed_and_have_reasons() -> None:
    for (name, rule), reason in WAIVERS.items():
        assert reason and (ROOT / name).exists(), name
        found = violations(Path(name), (ROOT / name).read_text(encoding="utf-8"))
        assert rule in {"workplace", *(text.partition(":")[0] for text in found)}, (name, rule)
