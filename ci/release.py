"""Set the version of every distribution of this repository at once, pins between them included.

    python ci/release.py 0.2.0

The order to build and publish in is printed: who is needed by others comes first.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VERSION = re.compile(r"\d+\.\d+\.\d+((a|b|rc)\d+|\.dev\d+)?")


def projects(root: Path) -> list[Path]:
    """Every pyproject.toml, in the order in which to publish."""
    shared = ("platforms/torch", "platforms/xla")  # by the platforms
    families = ("kernels/*", ".", *shared, "platforms/*", "plugins/*")
    found = [p for family in families for p in sorted(root.glob(f"{family}/pyproject.toml"))]
    return list(dict.fromkeys(found))


def set_version(text: str, version: str) -> str:
    """A pyproject.toml with its version, and its pins of our own distributions, replaced."""
    text = re.sub(r'^version = "[^"]*"', f'version = "{version}"', text, count=1, flags=re.M)
    return re.sub(r'"(pagoda-[a-z-]+)==[^"]*"', rf'"\1=={version}"', text)


def release(root: Path, version: str) -> list[Path]:
    """Write the version everywhere; returns the files that changed."""
    files = {path: set_version(path.read_text(), version) for path in projects(root)}
    package = root / "core" / "pagoda" / "__init__.py"
    line = f'__version__ = "{version}"'
    files[package] = re.sub(r'^__version__ = "[^"]*"', line, package.read_text(), flags=re.M)
    changed = [path for path, text in files.items() if text != path.read_text()]
    for path in changed:
        path.write_text(files[path])
    return changed


def main(words: list[str]) -> int:
    """Run the command; returns the exit code."""
    if len(words) != 1 or not VERSION.fullmatch(words[0]):
        print("usage: python ci/release.py X.Y.Z[aN|bN|rcN|.devN]", file=sys.stderr)
        return 2
    for path in release(ROOT, words[0]):
        print(f"changed {path.relative_to(ROOT)}")
    print("\nto publish, in this order:")
    for path in projects(ROOT):
        print(f"  python -m build --outdir dist {path.parent.relative_to(ROOT)}")
    print("  python ci/check_wheels.py dist")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
