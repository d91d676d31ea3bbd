"""Distributions laid into a folder by pip, for tests that want them installed where nobody else
does: on sys.path of the test, or on PYTHONPATH of a child process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def pip_install(project: Path, site: Path) -> Path:
    """Build ``project`` and install it into ``site``, offline; its dependencies are not touched."""
    pytest.importorskip("hatchling", reason="building a distribution needs hatchling")
    alone = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")
    done = run(sys.executable, "-m", "pip", "install", *alone, "--target", site, project)
    assert done.returncode == 0, done.stdout
    return site


def run(
    *words: object, site: Path | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command, with ``site`` on its path; stdout holds stderr too."""
    environment = dict(os.environ)
    if site is not None:
        environment["PYTHONPATH"] = os.pathsep.join(
            filter(None, (str(site), environment.get("PYTHONPATH")))
        )
    return subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def pagoda_command(
    *words: object, site: Path | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command ``pagoda`` in a process of its own."""
    code = "import sys; from pagoda.cli.main import main; sys.exit(main())"
    return run(sys.executable, "-c", code, *words, site=site, cwd=cwd)


@pytest.fixture(scope="session")
def echo_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the distribution pagoda-echo."""
    return pip_install(ROOT / "plugins" / "echo", tmp_path_factory.mktemp("site"))


@pytest.fixture
def echo(echo_site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """pagoda-echo installed for this test, in this process."""
    monkeypatch.syspath_prepend(str(echo_site))
    yield echo_site
    for name in [name for name in sys.modules if name.partition(".")[0] == "pagoda_echo"]:
        del sys.modules[name]
