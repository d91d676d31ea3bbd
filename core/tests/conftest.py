"""Fixtures of the core's tests."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from shared_assets import assets, stories260k

from pagoda import registry
from pagoda.platform import CONTRACT

__all__ = ["assets", "stories260k"]  # fixtures

WriteSafetensors = Callable[[Path, Mapping[str, np.ndarray]], None]


def _write_safetensors(file: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """float32, float16 as they are; uint16 stands for the bits of bfloat16."""
    words = {"float32": "F32", "float16": "F16", "uint16": "BF16", "int32": "I32"}
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, value in tensors.items():
        raw = np.ascontiguousarray(value).tobytes()
        offsets = [len(data), len(data) + len(raw)]
        shape = list(value.shape)
        header[name] = {"dtype": words[str(value.dtype)], "shape": shape, "data_offsets": offsets}
        data += raw
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)


@pytest.fixture
def write_safetensors() -> WriteSafetensors:
    """Write arrays as a safetensors file."""
    return _write_safetensors


PLUGIN = """
from pagoda.platform import (
    CONTRACT, Capabilities, DeviceInfo, PlatformInfo, StepLimits, Unavailable, hookimpl
)

@hookimpl
def pagoda_platform():
    return PlatformInfo({name!r}, "made up", {contract}, {priority})

@hookimpl
def pagoda_probe():
    {probe}

@hookimpl
def pagoda_capabilities(model, devices):
    return Capabilities(StepLimits(8, 2), ("float32",))

@hookimpl
def pagoda_create_runner(config, model, devices):
    raise NotImplementedError

{more}
"""


class Platforms:
    """Made-up platforms: distributions ``pagoda-<name>`` 1.2 in a folder on sys.path."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.folder = folder
        self.monkeypatch = monkeypatch

    def source(
        self,
        name: str,
        *,
        contract: object = CONTRACT,
        priority: int = 100,
        probe: str = 'return [DeviceInfo("0", "first"), DeviceInfo("1", "second")]',
        more: str = "",
    ) -> str:
        """A plugin module that fits the contract unless told otherwise."""
        more = textwrap.dedent(more)
        return PLUGIN.format(
            name=name, contract=contract, priority=priority, probe=probe, more=more
        )

    def add(self, name: str, distribution: str = "", **variations: object) -> None:
        """Install a platform made of ``source``."""
        self.add_source(name, self.source(name, **variations), distribution)  # type: ignore[arg-type]

    def add_source(self, name: str, source: str, distribution: str = "") -> None:
        """Install any module as the plugin ``name``."""
        distribution = distribution or f"pagoda-{name}"
        module = distribution.replace("-", "_")
        (self.folder / f"{module}.py").write_text(source)
        info = self.folder / f"{module}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2")
        (info / "entry_points.txt").write_text(f"[pagoda]\n{name} = {module}\n")
        self.monkeypatch.syspath_prepend(str(self.folder))


@pytest.fixture
def platforms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Platforms]:
    """No platform but those that the test adds; the installed ones are hidden meanwhile."""
    real = metadata.entry_points
    folder = tmp_path / "site"
    folder.mkdir()

    def only_made_up(group: str) -> list[metadata.EntryPoint]:
        found = real(group=group)
        return [e for e in found if e.dist and Path(str(e.dist.locate_file(""))) == folder]

    monkeypatch.setattr(registry.metadata, "entry_points", only_made_up)
    before = set(sys.modules)
    yield Platforms(folder, monkeypatch)
    for name in set(sys.modules) - before:
        if str(folder) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]
