"""Machines with AMD GPUs, as AMD's management library and PyTorch would show them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from pagoda_rocm import gpus, installed, visible


@dataclass
class Smi:
    """Stands for the module ``amdsmi``."""

    cards: list[tuple[str, str, int]]
    fails: dict[str, Exception]  # function to what it raises
    open_count: int = 0  # initialised and not shut down
    AmdSmiMemoryType = SimpleNamespace(VRAM=0)

    def _may_fail(self, name: str) -> None:
        if name in self.fails:
            raise self.fails[name]

    def amdsmi_init(self) -> None:
        self._may_fail("amdsmi_init")
        self.open_count += 1

    def amdsmi_shut_down(self) -> None:
        self.open_count -= 1

    def amdsmi_get_processor_handles(self) -> list[int]:
        self._may_fail("amdsmi_get_processor_handles")
        return list(range(len(self.cards)))

    def amdsmi_get_gpu_asic_info(self, handle: int) -> dict[str, Any]:
        self._may_fail("amdsmi_get_gpu_asic_info")
        name, arch, _ = self.cards[handle]
        return {"market_name": name, "target_graphics_version": arch}

    def amdsmi_get_gpu_device_uuid(self, handle: int) -> str:
        self._may_fail("amdsmi_get_gpu_device_uuid")
        return f"{handle:02x}ff74a1-0000-1000-80ab-c89b2e87b7bd"

    def amdsmi_get_gpu_memory_total(self, handle: int, kind: int) -> int:
        self._may_fail("amdsmi_get_gpu_memory_total")
        return self.cards[handle][2]

    def amdsmi_get_gpu_driver_info(self, handle: int) -> dict[str, str]:
        return {"driver_name": "amdgpu", "driver_version": "6.12.12"}


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PyTorch built for ROCm, with Triton, that finds no GPU; no variable set."""
    (tmp_path / "version.py").write_text(
        "__version__ = '2.11.0+rocm7.0'\ncuda: Optional[str] = None\nhip: Optional[str] = '7.0.5'\n"
    )
    spec = ModuleSpec("torch", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(installed, "find_spec", lambda name: spec)
    monkeypatch.setattr(gpus, "ask_torch", list)
    for name in visible.SAYS:
        monkeypatch.delenv(name, raising=False)
    return tmp_path


Machine = Callable[..., Smi]


@pytest.fixture
def machine(build: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Install a management library that shows these cards, some functions failing."""

    def make(cards: list[tuple[str, str, int]], **fails: Exception) -> Smi:
        found = Smi(cards, fails)
        monkeypatch.setitem(sys.modules, "amdsmi", found)  # type: ignore[arg-type]
        return found

    return make


@pytest.fixture
def no_library(build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """amdsmi is installed and the driver's library is not: its import ends in a KeyError."""

    class Broken:
        def find_spec(self, name: str, path: object = None, target: object = None) -> Any:
            return ModuleSpec(name, self) if name == "amdsmi" else None  # type: ignore[arg-type]

        def create_module(self, spec: ModuleSpec) -> ModuleType | None:
            return None

        def exec_module(self, module: ModuleType) -> None:
            raise KeyError("libamd_smi.so")

    monkeypatch.delitem(sys.modules, "amdsmi", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
