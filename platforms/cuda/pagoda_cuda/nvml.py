"""Which GPUs there are, asked of NVIDIA's management library: no CUDA context, nothing left behind.

Only what a process with this CUDA_VISIBLE_DEVICES would see, in CUDA's numbering for machines whose
GPUs are alike."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from pagoda.platform import Unavailable

LIBRARY = "libnvidia-ml.so.1"
FOLDERS = ("", "/usr/local/nvidia/lib64/", "/usr/lib/wsl/lib/")
"""The linker's own, then where containers and WSL keep the driver."""


@dataclass(frozen=True)
class Gpu:
    """One GPU as the driver describes it."""

    name: str
    uuid: str  # "GPU-..."
    memory_bytes: int
    capability: tuple[int, int]


class _Memory(ctypes.Structure):
    _fields_ = (
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    )


@contextmanager
def _library() -> Iterator[ctypes.CDLL]:
    library = _open()
    _check(library.nvmlInit_v2(), "nvmlInit")
    try:
        yield library
    finally:
        library.nvmlShutdown()


def _open() -> ctypes.CDLL:
    for folder in FOLDERS:
        try:
            return ctypes.CDLL(folder + LIBRARY)
        except OSError:
            continue
    raise Unavailable(
        f"no NVIDIA driver found ({LIBRARY})", "install NVIDIA's driver, or another --device"
    )


def _check(status: int, what: str) -> None:
    if status:
        raise Unavailable(
            f"NVIDIA's driver does not answer: {what} returned {status}", "look at nvidia-smi"
        )


def list_gpus() -> list[Gpu]:
    """Every GPU of the machine.  Raises Unavailable without a driver."""
    with _library() as library:
        count = ctypes.c_uint()
        _check(library.nvmlDeviceGetCount_v2(ctypes.byref(count)), "nvmlDeviceGetCount")
        return [_describe(library, index) for index in range(count.value)]


def driver_version() -> str:
    with _library() as library:
        return _text(library.nvmlSystemGetDriverVersion)


def _describe(library: ctypes.CDLL, index: int) -> Gpu:
    handle = ctypes.c_void_p()
    found = library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(handle))
    _check(found, f"nvmlDeviceGetHandleByIndex({index})")
    memory, major, minor = _Memory(), ctypes.c_int(), ctypes.c_int()
    _check(library.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)), "nvmlDeviceGetMemoryInfo")
    capability = library.nvmlDeviceGetCudaComputeCapability
    _check(capability(handle, ctypes.byref(major), ctypes.byref(minor)), "compute capability")
    return Gpu(
        name=_text(library.nvmlDeviceGetName, handle),
        uuid=_text(library.nvmlDeviceGetUUID, handle),
        memory_bytes=memory.total,
        capability=(major.value, minor.value),
    )


def _text(function: object, *arguments: object) -> str:
    buffer = ctypes.create_string_buffer(96)
    status = function(*arguments, buffer, ctypes.c_uint(len(buffer)))  # type: ignore[operator]
    _check(status, getattr(function, "__name__", "nvml"))
    return buffer.value.decode()


def visible(gpus: Sequence[Gpu], said: str | None) -> list[Gpu]:
    """Those that CUDA_VISIBLE_DEVICES names, in its order: numbers or beginnings of UUIDs; like
    CUDA, nothing after the first entry that names no GPU."""
    if said is None:
        return list(gpus)
    found: list[Gpu] = []
    for word in (part.strip() for part in said.split(",")):
        if word.isdigit():
            matches = [gpus[int(word)]] if int(word) < len(gpus) else []
        else:
            matches = [gpu for gpu in gpus if word and gpu.uuid.startswith(word)]
        if len(matches) != 1 or matches[0] in found:
            break
        found += matches
    return found


def visible_gpus() -> list[Gpu]:
    """What this process may use.  Raises Unavailable with the reason when that is nothing."""
    gpus, said = list_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES")
    if not gpus:
        raise Unavailable("the NVIDIA driver sees no GPU", "look at nvidia-smi")
    found = visible(gpus, said)
    if not found:
        raise Unavailable(
            f"CUDA_VISIBLE_DEVICES={said!r} names none of the {len(gpus)} GPUs", "unset it"
        )
    return found
