"""Hosts and environments that are not there, and the NKI kernel run on eager tensors.  On XLA's CPU
backend this platform runs in the conformance kit and in ``golden.py``."""

from __future__ import annotations

from pathlib import Path

import pytest
from shared_assets import assets, stories260k

from pagoda_neuron import chips, environment, packages

__all__ = ["Host", "assets", "host", "stories260k"]


class Host:
    """A machine with some chips and packages, as the probe finds them."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.dev, self.sys = folder / "dev", folder / "sys"
        self.dev.mkdir()
        self.versions = {"torch": "2.9.0+cpu", "torch-xla": "2.9.0"}
        self.empty: set[str] = set()
        files, instance = chips.device_files, chips.instance_type
        monkeypatch.setattr(chips, "device_files", lambda: files(self.dev))
        monkeypatch.setattr(chips, "instance_type", lambda: instance(self.sys))
        monkeypatch.setattr(packages, "installed", lambda name: self.versions.get(name, ""))
        monkeypatch.setattr(packages, "is_placeholder", lambda name: name in self.empty)
        known = {"torch": "torch", "torch_xla": "torch-xla"}
        monkeypatch.setattr(
            packages, "find_spec", lambda name: self.versions.get(known.get(name, "")) or None
        )
        for name in (environment.EMULATE, environment.VISIBLE, environment.LOGICAL):
            monkeypatch.delenv(name, raising=False)

    def add_chips(self, count: int, instance: str, moved: bool = False) -> None:
        for i in range(count):
            (self.dev / f"neuron{i}").touch()
            folder = self.sys / f"devices/virtual/neuron_device/neuron{i}/info"
            folder = folder / "hardware" / "architecture" if moved else folder / "architecture"
            folder.mkdir(parents=True)
            (folder / "instance_type").write_text(f"{instance}\n")

    def add_packages(self) -> None:
        """AWS's own."""
        self.versions |= {
            "torch-neuronx": "2.9.0.2.11.1+x",
            "neuronx-cc": "2.22.1+x",
            "nki": "0.6.0+x",
        }


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path, monkeypatch)
