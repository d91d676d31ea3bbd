"""Write the distribution of a new backend: it installs, is found, and says what to write next."""

from __future__ import annotations

import re
from importlib import metadata, resources
from pathlib import Path
from string import Template

from pagoda import __version__, registry
from pagoda.platform.errors import InvalidValue, PagodaError
from pagoda.platform.types import CONTRACT

FILES = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    "$module/__init__.py": "init.py",
    "$module/plugin.py": "plugin.py",
    "$module/runner.py": "runner.py",
    "tests/test_conformance.py": "test_conformance.py",
}
"""Path in the new distribution: its template in ``files/``, there with ``.txt`` behind its name so
that no tool takes a text with blanks for code."""


def write(name: str, into: Path) -> Path:
    """Write ``into/pagoda-<name>`` and return that folder.  Raises InvalidValue on a name that
    cannot be a platform's, PagodaError when the folder is not empty."""
    _check_name(name)
    folder = into / f"pagoda-{name}"
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PagodaError(f"{folder} is there already", "another name, or --into another folder")
    words = {
        "name": name,
        "module": "pagoda_" + name.replace("-", "_"),
        "title": "".join(part.capitalize() for part in name.split("-")),
        "core": registry.DISTRIBUTION,
        "version": __version__,
        "next_major": str(max(int(__version__.partition(".")[0]), 1) + 1),
        "contract": repr(CONTRACT),
    }
    try:
        for path, template in FILES.items():
            text = _template(template).substitute(words)
            target = folder / Template(path).substitute(words)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise PagodaError(
            f"{folder} cannot be written: {error}", "--into another folder"
        ) from error
    return folder


def _template(name: str) -> Template:
    file = resources.files(__package__) / "files" / f"{name}.txt"
    return Template(file.read_text(encoding="utf-8"))


def _own_distributions() -> set[str]:
    """Ours and those that our extras name."""
    try:
        required = metadata.requires(registry.DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        required = []
    return {registry.DISTRIBUTION, *(re.split(r"[^\w-]", line, maxsplit=1)[0] for line in required)}


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        allowed = "must be small letters and digits, words joined by '-', a letter first"
        raise InvalidValue("name", name, allowed)
    if name == "auto":
        raise InvalidValue("name", name, "is what --device calls the best platform installed")
    if name in registry.extras() or f"pagoda-{name}" in _own_distributions():
        raise InvalidValue("name", name, f"is kept for {registry.DISTRIBUTION} itself")
    for entry in registry.installed().get(name, []):
        owner = entry.dist.metadata["Name"] if entry.dist else "somebody"
        raise InvalidValue("name", name, f"{owner} has a platform of this name installed here")
