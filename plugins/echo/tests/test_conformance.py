"""The example held to the contract: what ``pytest --pagoda-platform echo`` checks."""

from __future__ import annotations

import sys
from pathlib import Path

from installed import run


def test_the_conformance_kit_passes(echo_site: Path, tmp_path: Path) -> None:
    words = (sys.executable, "-m", "pytest", "--pagoda-platform", "echo")
    done = run(*words, site=echo_site, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "pagoda: echo conforms to" in done.stdout, done.stdout
