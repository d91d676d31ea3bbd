"""A Triton driver without a device: launches go through the real binder and compiler for any target
and end in a record instead of on a chip.  Outputs stay what they were.

Not for processes with TRITON_INTERPRET=1, whose kernels are never compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.compiler import compiler
from triton.runtime import driver

from pagoda_kernels_triton import tuning

KIB = 1 << 10


@dataclass(frozen=True)
class Chip:
    """What a launcher and Triton's compiler ask about a device."""

    name: str  # as the tables have it
    target: GPUTarget
    shared_bytes: int  # of one program at most
    num_units: int


def _nvidia(capability: int, shared: int, units: int) -> Chip:
    return Chip(f"sm_{capability}", GPUTarget("cuda", capability, 32), shared * KIB, units)


def _amd(name: str, wave: int, shared: int, units: int) -> Chip:
    return Chip(name, GPUTarget("hip", name, wave), shared * KIB, units)


CHIPS = {
    chip.name: chip
    for chip in (
        _amd("gfx90a", 64, 64, 104),  # MI210, half an MI250X
        _amd("gfx942", 64, 64, 304),  # MI300X
        _amd("gfx950", 64, 160, 256),  # MI355X
        _amd("gfx1100", 32, 64, 48),  # RX 7900 XTX, in workgroup processors
        _amd("gfx1201", 32, 64, 32),  # RX 9070 XT
        _nvidia(80, 163, 108),  # A100
        _nvidia(89, 99, 142),  # L40S
        _nvidia(90, 227, 132),  # H100, H200
        _nvidia(100, 227, 148),  # B200
        _nvidia(120, 99, 170),  # RTX 5090
    )
}


@dataclass(frozen=True)
class Launch:
    """One kernel that a launcher started."""

    grid: tuple[int, int, int]
    source: Any  # triton's ASTSource
    chip: Chip

    @property
    def compiled(self) -> Any:
        """Triton's CompiledKernel: metadata, and ``asm`` by stage."""
        made = self.source.fn.device_caches[self.chip.name][0].values()
        return next(kernel for kernel in made if kernel.src is self.source)


class FakeDriver(DriverBase):
    """Every kernel compiled for ``chip``, in a cache of its own."""

    def __init__(self, chip: Chip):
        self.chip = chip
        self.launches: list[Launch] = []
        self.utils = self
        self.launcher_cls = self._launcher

    def get_device_properties(self, device: object) -> dict[str, object]:
        return {
            "max_shared_mem": self.chip.shared_bytes,
            "max_num_regs": 65536,
            "multiprocessor_count": self.chip.num_units,
            "warpSize": self.chip.target.warp_size,
            "arch": self.chip.target.arch,
        }

    def load_binary(self, *_: object) -> tuple[int, int, int, int, int]:
        return 1, 1, 0, 0, 1024  # module, function, registers, spills, threads at most

    def _launcher(self, source: Any, metadata: Any) -> Callable[..., None]:
        def launch(x: int, y: int, z: int, *rest: Any) -> None:
            self.launches.append(Launch((x, y, z), source, self.chip))

        return launch

    @classmethod
    def is_active(cls) -> bool:
        return True

    def map_python_to_cpp_type(self, ty: str) -> str:
        return ty

    def get_current_target(self) -> GPUTarget:
        return self.chip.target

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_benchmarker(self) -> Any:
        raise NotImplementedError("nothing runs here")

    def get_current_device(self) -> str:
        return self.chip.name  # the key of a kernel's binaries

    def set_current_device(self, device: object) -> None:
        pass

    def get_current_stream(self, device: object) -> int:
        return 0


_driver_of = cache(FakeDriver)  # one a chip, for a kernel's launcher keeps the driver that made it


@contextmanager
def pretend(name: str) -> Iterator[FakeDriver]:
    """CPU tensors are on this chip while the context lasts."""
    usual, fake = driver._active, _driver_of(CHIPS[name])
    fake.launches.clear()
    driver.set_active(fake)
    compiler.max_shared_mem.cache_clear()
    tuning.assume(tuning.Target(name, fake.chip.num_units))
    try:
        yield fake
    finally:
        tuning.assume(tuning.Target("", 1))
        driver._active = usual
        compiler.max_shared_mem.cache_clear()
