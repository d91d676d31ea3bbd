"""``pagoda new-backend``: what it writes installs, is found, and says what to write next."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from installed import pagoda_command, pip_install

from pagoda.new_backend.write import FILES, write
from pagoda.platform import InvalidValue, PagodaError


@pytest.fixture(scope="module")
def abacus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A freshly written pagoda-abacus."""
    folder = tmp_path_factory.mktemp("new")
    done = pagoda_command("new-backend", "abacus", "--into", folder)
    assert done.returncode == 0, done.stdout
    assert f"pip install -e {folder / 'pagoda-abacus'}" in done.stdout
    assert "pytest --pagoda-platform abacus" in done.stdout
    return folder / "pagoda-abacus"


@pytest.fixture(scope="module")
def site(abacus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It, installed by pip."""
    return pip_install(abacus, tmp_path_factory.mktemp("site"))


def test_what_it_writes(abacus: Path) -> None:
    files = {str(path.relative_to(abacus)) for path in abacus.rglob("*") if path.is_file()}
    assert files == {path.replace("$module", "pagoda_abacus") for path in FILES}
    for path in map(abacus.joinpath, files):
        text = path.read_text()
        assert "$" not in text, f"{path} has a blank left"
        if path.suffix == ".py":
            assert ast.get_docstring(ast.parse(text)), f"{path} says nothing of itself"
            assert max(map(len, text.splitlines())) <= 100, path


def test_it_installs_and_is_found(site: Path) -> None:
    done = pagoda_command("platforms", site=site)
    assert done.returncode == 0 and re.search(r"^abacus +pagoda-abacus 0", done.stdout, re.M)


def test_running_it_says_what_to_write_first(site: Path, stories260k: Path) -> None:
    words = ("generate", "A", "--device", "abacus", "--model", stories260k / "hf")
    done = pagoda_command(*words, site=site)
    assert done.returncode == 1 and "Traceback" not in done.stdout
    assert "platform 'abacus': load() is not written yet. Try: in pagoda_abacus/r" in done.stdout


def test_two_words_make_one_module(tmp_path: Path) -> None:
    folder = write("slide-rule", tmp_path)
    assert "class SlideRuleRunner" in (folder / "pagoda_slide_rule" / "runner.py").read_text()
    assert 'slide-rule = "pagoda_slide_rule.plugin"' in (folder / "pyproject.toml").read_text()


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        *((name, "small letters and digits") for name in ("", "Abacus", "1a", "a_b", "a-", "a/b")),
        ("auto", "best platform installed"),
        ("llm", "is kept for pagoda-llm itself"),
        ("reference", "pagoda-llm has a platform of this name installed"),
    ],
)
def test_names_that_cannot_be(tmp_path: Path, name: str, shown: str) -> None:
    with pytest.raises(InvalidValue, match=shown):
        write(name, tmp_path)
    assert not any(tmp_path.iterdir())


def test_it_never_writes_over_anything(tmp_path: Path) -> None:
    (tmp_path / "pagoda-abacus").mkdir()
    write("abacus", tmp_path)
    with pytest.raises(PagodaError, match="is there already"):
        write("abacus", tmp_path)
    (tmp_path / "pagoda-file").write_text("mine")
    with pytest.raises(PagodaError, match="is there already"):
        write("file", tmp_path)
