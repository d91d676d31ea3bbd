"""The distributions agree with each other, with the extras that name them, and with their folders;
what is built for publishing points into nobody's checkout."""

from __future__ import annotations

import importlib.util
import re
import sys
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from installed import ROOT, run

import pagoda

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

FOLDERS = sorted(path.parent for path in ROOT.glob("*/*/pyproject.toml"))
IDS = [str(folder.relative_to(ROOT)) for folder in FOLDERS]


def project(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "pyproject.toml").read_text())["project"]


PROJECTS = {project(folder)["name"]: folder for folder in [ROOT, *FOLDERS]}


def tool(name: str) -> ModuleType:
    """A script of ``ci/`` as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "ci" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def extras() -> dict[str, list[str]]:
    pytest.importorskip("hatchling")
    return tool("build_pagoda").EXTRAS


def siblings(folder: Path) -> dict[str, str]:
    """Our own distributions that one needs, each with what it says of the version."""
    lines = (re.match(r"([\w-]+)(.*)", line) for line in project(folder).get("dependencies", []))
    return {m[1]: m[2] for m in lines if m and m[1] in PROJECTS}


def test_one_version_everywhere() -> None:
    versions = {str(f.relative_to(ROOT)): project(f)["version"] for f in PROJECTS.values()}
    assert set(versions.values()) == {pagoda.__version__}, versions


@pytest.mark.parametrize("folder", FOLDERS, ids=IDS)
def test_a_folder_is_named_as_what_is_in_it(folder: Path) -> None:
    family, name = folder.parts[-2:]
    stem = f"kernels-{name}" if family == "kernels" else name
    said = project(folder)
    assert said["name"] == f"pagoda-{stem}"
    package = folder / f"pagoda_{stem.replace('-', '_')}"
    assert (package / "__init__.py").is_file()
    assert (folder / "README.md").read_text().startswith(f"# {said['name']}")
    assert said["license"] == "Apache-2.0" and said["readme"] == "README.md"
    assert said["requires-python"] == project(ROOT)["requires-python"]
    for entry, module in said.get("entry-points", {}).get("pagoda", {}).items():
        assert (entry, module) == (name, f"{package.name}.plugin")
        assert (package / "plugin.py").is_file()


@pytest.mark.parametrize("folder", FOLDERS, ids=IDS)
def test_ours_pin_ours_and_a_stranger_does_not(folder: Path) -> None:
    needs = siblings(folder)
    for version in needs.values():
        if set(needs) == {"pagoda-llm"} and folder.parent.name == "plugins":
            assert version.startswith(">=")  # as anybody's would: guarded by the contract
        else:
            assert version == f"=={pagoda.__version__}"


def test_every_platform_has_its_extra_and_the_other_way_round() -> None:
    platforms = {f.name for f in FOLDERS if "entry-points" in project(f)}
    assert set(extras()) == {f.name for f in FOLDERS if f.parent.name == "platforms"} & platforms


@pytest.mark.parametrize("extra", extras())
def test_an_extra_names_every_sibling_it_needs(extra: str) -> None:
    paths = extras()[extra]
    named = {project(ROOT / path)["name"] for path in paths}
    assert f"pagoda-{extra}" in named
    needed = {name for path in paths for name in siblings(ROOT / path)} - {"pagoda-llm"}
    assert needed <= named


def build(hook: str, where: Path, out: Path, release: bool = False) -> Path:
    """Run one hook of the build backend in a process of its own; returns what it made."""
    pytest.importorskip("hatchling")
    code = "\n".join(
        (
            "import os, sys",
            "sys.path.insert(0, 'ci')",
            "os.environ['PAGODA_RELEASE'] = '1'" if release else "",
            "import build_pagoda",
            f"print(build_pagoda.{hook}(sys.argv[1]))",
        )
    )
    done = run(sys.executable, "-c", code, out, cwd=where)
    assert done.returncode == 0, done.stdout
    return out / done.stdout.splitlines()[-1]


def prepared(out: Path, release: bool) -> Message:
    info = build("prepare_metadata_for_build_wheel", ROOT, out, release)
    return Parser().parsestr((info / "METADATA").read_text())


def test_in_a_checkout_extras_are_the_folders_beside_us(tmp_path: Path) -> None:
    lines = prepared(tmp_path, release=False).get_all("Requires-Dist") or []
    wanted = f"pagoda-cpu @ {(ROOT / 'platforms' / 'cpu').as_uri()}"
    assert any(line.startswith(wanted) for line in lines)


def test_for_release_they_are_published_distributions(tmp_path: Path) -> None:
    metadata = prepared(tmp_path, release=True)
    assert not tool("check_wheels").problems(metadata)
    lines = metadata.get_all("Requires-Dist") or []
    for extra, paths in extras().items():
        for name in (project(ROOT / path)["name"] for path in paths):
            pin = re.compile(
                rf"{name}=={re.escape(pagoda.__version__)}; extra == ['\"]{extra}['\"]"
            )
            assert any(map(pin.fullmatch, lines)), (name, lines)


def test_a_wheel_from_an_sdist_is_complete_and_clean(tmp_path: Path) -> None:
    sdist = build("build_sdist", ROOT, tmp_path)
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, **({"filter": "data"} if sys.version_info >= (3, 12) else {}))
    wheel = build("build_wheel", tmp_path / sdist.name.removesuffix(".tar.gz"), tmp_path)
    checks = tool("check_wheels")
    assert not checks.problems(checks.read_metadata(sdist))
    assert not checks.problems(checks.read_metadata(wheel))
    assert checks.main(tmp_path) == 0
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    core = ROOT / "core"
    sources = (path for path in (core / "pagoda").rglob("*.py") if "__pycache__" not in path.parts)
    assert {path.relative_to(core).as_posix() for path in sources} <= names
    templates = (core / "pagoda" / "new_backend" / "files").iterdir()
    assert {path.relative_to(core).as_posix() for path in templates} <= names
    assert "pagoda/py.typed" in names
    assert not [name for name in names if not name.startswith("pagoda")]


def test_a_wheel_from_a_checkout_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (
        "Name: pagoda-llm\nVersion: 1.0.0\nRequires-Dist: numpy>=1.26\n"
        "Requires-Dist: pagoda-cpu @ file:///somewhere ; extra == 'cpu'\n"
        "Requires-Dist: pagoda-torch==0.9.0; extra == 'cpu'\n"
    )
    with zipfile.ZipFile(tmp_path / "pagoda_llm-1.0.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("pagoda_llm-1.0.0.dist-info/METADATA", text)
    assert tool("check_wheels").main(tmp_path) == 1
    said = capsys.readouterr().err
    assert "@ file:///somewhere: built from a checkout" in said
    assert "pagoda-torch==0.9.0: this is version 1.0.0" in said
    assert tool("check_wheels").main(tmp_path / "nothing") == 1


def test_release_sets_every_version(tmp_path: Path) -> None:
    tools = tool("release")
    package = tmp_path / "core" / "pagoda" / "__init__.py"
    copies = [*(folder / "pyproject.toml" for folder in PROJECTS.values())]
    copies.append(ROOT / package.relative_to(tmp_path))
    for path in copies:
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text())
    changed = tools.release(tmp_path, "7.8.9rc1")
    assert sorted(changed) == sorted(tmp_path / path.relative_to(ROOT) for path in copies)
    assert '__version__ = "7.8.9rc1"' in package.read_text()
    for folder in PROJECTS.values():
        copy = project(tmp_path / folder.relative_to(ROOT))
        original = project(folder)
        assert copy["version"] == "7.8.9rc1"
        old, new = f"=={pagoda.__version__}", "==7.8.9rc1"
        replaced = [line.replace(old, new) for line in original.get("dependencies", [])]
        assert copy.get("dependencies", []) == replaced
    assert tools.release(tmp_path, "7.8.9rc1") == []


def test_release_order_puts_the_needed_first() -> None:
    order = [project(path.parent)["name"] for path in tool("release").projects(ROOT)]
    assert sorted(order) == sorted(PROJECTS)
    for name in order:
        for needed in siblings(PROJECTS[name]):
            assert order.index(needed) < order.index(name)


@pytest.mark.parametrize("words", [[], ["1"], ["1.0"], ["v1.0.0"], ["1.0.0", "2.0.0"]])
def test_release_refuses_what_is_no_version(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool("release").main(words) == 2
    assert "usage" in capsys.readouterr().err
