"""The table of mutants, and how one becomes an installed platform."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pagoda.platform import CONTRACT, Capabilities, PlatformInfo, hookimpl
from pagoda.reference import plugin as reference
from pagoda.reference.runner import ReferenceRunner


@dataclass(frozen=True)
class Mutant:
    """One mistake: where the kit must find it, and what its message must say."""

    name: str
    runner: type[ReferenceRunner]
    suite: str  # file of the suite, or file::test
    says: str  # pattern of the failure's message
    hooks: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    declares: Callable[[Capabilities], Capabilities] = lambda capabilities: capabilities
    first_line: str = ""  # of the plugin module
    breaks_core: Callable[[pytest.MonkeyPatch], None] | None = None


CATALOG: dict[str, Mutant] = {}


def mutant(suite: str, says: str, **more: Any) -> Callable[[type[ReferenceRunner]], Any]:
    """Enter a runner class into the table under its name."""

    def enter(runner: type[ReferenceRunner]) -> type[ReferenceRunner]:
        name = "mutant" + re.sub("[A-Z]", lambda m: "-" + m[0].lower(), runner.__name__)
        CATALOG[name] = Mutant(name, runner, suite, says, **more)
        return runner

    return enter


def install(one: Mutant, folder: Path) -> None:
    """Write the distribution of this mutant's platform into a folder of sys.path."""
    module = one.name.replace("-", "_")
    (folder / f"{module}.py").write_text(
        f"{one.first_line}\n"
        "from conformance_mutants import catalog, every\n"
        f"globals().update(catalog.hooks(every.find({one.name!r})))\n"
    )
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {one.name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[pagoda]\n{one.name} = {module}\n")


def hooks(one: Mutant) -> dict[str, Any]:
    """The plugin module's hook implementations."""

    def pagoda_platform():
        return PlatformInfo(one.name, "wrong on purpose", CONTRACT, priority=-1)

    def pagoda_probe():
        return reference.pagoda_probe()

    def pagoda_capabilities(model, devices):
        return one.declares(reference.pagoda_capabilities(model, devices))

    def pagoda_create_runner(config, model, devices):
        return one.runner(config, model)

    found = {
        "pagoda_platform": pagoda_platform,
        "pagoda_probe": pagoda_probe,
        "pagoda_capabilities": pagoda_capabilities,
        "pagoda_create_runner": pagoda_create_runner,
        **one.hooks,
    }
    return {name: hookimpl(function) for name, function in found.items()}
