"""AMD GPUs by the driver's management library: no HIP context, nothing left behind."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from pagoda.platform import Unavailable


@dataclass(frozen=True)
class Gpu:
    """One GPU as the driver or PyTorch describes it."""

    name: str
    arch: str  # as reported, with suffixes; empty where nothing was
    uuid: str = ""  # "GPU-...", or empty
    memory_bytes: int = 0  # 0: not reported
    trouble: str = ""  # what it answered instead


def list_gpus() -> list[Gpu]:
    """Every GPU of the machine, which may be none.  Raises Unavailable where the library is
    missing, broken, or does not answer."""
    with _library() as smi:
        try:
            handles = smi.amdsmi_get_processor_handles()
        except Exception as error:  # AmdSmiException has a class a status
            raise _no_answer(error) from error
        return [_describe(smi, handle) for handle in handles]


def driver_version() -> str:
    """Of the kernel's driver, by its first GPU."""
    with _library() as smi:
        try:
            (first, *_) = smi.amdsmi_get_processor_handles()
            return str(smi.amdsmi_get_gpu_driver_info(first)["driver_version"])
        except Exception as error:
            raise _no_answer(error) from error


@contextmanager
def _library() -> Iterator[Any]:
    try:
        smi = importlib.import_module("amdsmi")
    except Exception as error:  # without libamd_smi.so the import ends in a KeyError
        raise Unavailable(
            f"AMD's management library does not load ({error!r})",
            "install ROCm's amd-smi-lib, and the amdsmi that comes with it",
        ) from error
    try:
        smi.amdsmi_init()
    except Exception as error:
        raise _no_answer(error) from error
    try:
        yield smi
    finally:
        with suppress(Exception):
            smi.amdsmi_shut_down()


def _no_answer(error: Exception) -> Unavailable:
    return Unavailable(f"AMD's driver does not answer: {error!r}", "look at amd-smi and dmesg")


def _describe(smi: Any, handle: Any) -> Gpu:
    """What of it can be had: a GPU that is busy or half initialised refuses some questions."""
    try:
        asic = smi.amdsmi_get_gpu_asic_info(handle)
    except Exception as error:
        return Gpu("AMD GPU", "", trouble=f"it does not answer: {error!r}")
    arch = str(asic.get("target_graphics_version") or "")
    name = str(asic.get("market_name") or "")
    return Gpu(
        name=name if name not in ("", "N/A") else f"AMD GPU {arch}",
        arch=arch,
        uuid=str(_asked(lambda: smi.amdsmi_get_gpu_device_uuid(handle), "")),
        memory_bytes=int(
            _asked(lambda: smi.amdsmi_get_gpu_memory_total(handle, smi.AmdSmiMemoryType.VRAM), 0)
        ),
    )


def _asked(question: Callable[[], Any], otherwise: object) -> Any:
    try:
        return question()
    except Exception:  # a detail: devices that do not report it work all the same
        return otherwise
