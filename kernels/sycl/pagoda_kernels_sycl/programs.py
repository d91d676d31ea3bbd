"""Kernels by name, compiled for a device and a dtype when first asked for, and their launches."""

from __future__ import annotations

import ctypes
import functools
import re
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pagoda_kernels_sycl.queues import queue_of
from pagoda_kernels_sycl.runtime import SyclUnavailable, last_error, load_shim

SOURCE = Path(__file__).with_name("source")
ELEMENTS = {torch.float32: "float", torch.float16: "half", torch.bfloat16: "bfloat16"}
_KERNEL = re.compile(r"^KERNEL (\w+)\(([^)]*)\)", re.MULTILINE)

compile_seconds: dict[str, float] = {}
"""What was compiled in this process, and how long each took."""


@dataclass(frozen=True)
class Kernel:
    """One kernel of a program; its parameters are read from the source."""

    name: str
    handle: ctypes.c_void_p
    kinds: bytes  # as shim.cpp's launch takes them
    pack: struct.Struct

    def __call__(
        self,
        device: torch.device,
        groups: tuple[int, int, int],
        items: int,
        *values: Tensor | int | float | None,
    ) -> None:
        """Launch without waiting: groups work-groups of ``items`` work-items, the arguments in the
        order of the source; None is a null pointer."""
        raw = [x.data_ptr() if isinstance(x, Tensor) else 0 if x is None else x for x in values]
        shim = load_shim()
        if shim.pagoda_sycl_launch(
            ctypes.c_void_p(queue_of(device)),
            self.handle,
            self.kinds,
            self.pack.pack(*raw),
            *map(ctypes.c_size_t, groups),
            ctypes.c_size_t(items),
        ):
            raise RuntimeError(f"SYCL kernel {self.name!r} was not launched: {last_error(shim)}")


def kernels(
    file: str, device: torch.device, dtype: torch.dtype, **defines: int
) -> Mapping[str, Kernel]:
    """The kernels of one source file for tensors of this dtype.  Raises SyclUnavailable."""
    return _build(file, device, ELEMENTS[dtype], tuple(sorted(defines.items())))


@functools.cache
def _build(
    file: str, device: torch.device, element: str, defines: tuple[tuple[str, int], ...]
) -> Mapping[str, Kernel]:
    started = time.monotonic()
    source = whole_source(file, element, defines)
    shim, queue = load_shim(), queue_of(device)
    program = shim.pagoda_sycl_build(ctypes.c_void_p(queue), source.encode())
    if not program:
        raise SyclUnavailable(
            f"SYCL kernels {file} for {element} do not compile on {device}: {last_error(shim)}",
            "another intel-sycl-rt or driver, and please report it",
        )
    found = {}
    for name, parameters in _KERNEL.findall(source):
        handle = shim.pagoda_sycl_kernel(ctypes.c_void_p(program), name.encode())
        if not handle:
            raise SyclUnavailable(f"no SYCL kernel {name!r}: {last_error(shim)}", "report this")
        kinds = "".join(_kind(parameter) for parameter in parameters.split(","))
        layout = struct.Struct("<" + "".join(_PACKED[kind] for kind in kinds))
        found[name] = Kernel(name, ctypes.c_void_p(handle), kinds.encode(), layout)
    what = " ".join([file, element, *(f"{key}={value}" for key, value in defines)])
    compile_seconds[f"{what} {device}"] = time.monotonic() - started
    return found


def whole_source(file: str, element: str, defines: tuple[tuple[str, int], ...]) -> str:
    """What the compiler is given."""
    given = {"ELEMENT": element, **dict(defines)}
    head = "".join(f"#define {key} {value}\n" for key, value in given.items())
    return head + (SOURCE / "prelude.sycl").read_text() + (SOURCE / file).read_text()


_PACKED = {"p": "Q", "l": "q", "i": "i4x", "f": "f4x"}


def _kind(parameter: str) -> str:
    if "*" in parameter:
        return "p"
    return {"int64_t": "l", "int": "i", "float": "f"}[parameter.split()[0]]
