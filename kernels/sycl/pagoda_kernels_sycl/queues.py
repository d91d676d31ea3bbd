"""The queue that a tensor's kernels go to: torch's own for XPU tensors; for CPU tensors one on the
OpenCL device that intel-opencl-rt makes of the CPU, which reads and writes host memory."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pagoda_kernels_sycl.runtime import (
    CPU_WHEELS,
    INSTALL_CPU,
    SyclUnavailable,
    find_runtime,
    last_error,
    load_shim,
    version_of,
)


def queue_of(device: torch.device) -> int:
    """The address of a sycl::queue.  Raises SyclUnavailable."""
    if device.type == "cpu":
        return cpu_queue()
    queue: int = torch.xpu.current_stream(device).sycl_queue
    return queue


def finish(device: torch.device) -> None:
    """Wait where the host reads what kernels wrote without asking: on the CPU device.  Raises
    RuntimeError with what went wrong in a kernel."""
    if device.type != "cpu":
        return
    shim = load_shim()
    if shim.pagoda_sycl_wait(ctypes.c_void_p(cpu_queue())):
        raise RuntimeError(f"a SYCL kernel failed: {last_error(shim)}")


@functools.cache
def cpu_queue() -> int:
    """An in-order queue on the OpenCL CPU device."""
    shim, driver = load_shim(), find_runtime().library / "libintelocl.so"
    with _driver(driver):
        queue = shim.pagoda_sycl_cpu_queue()
    if not queue:
        raise SyclUnavailable(
            f"SYCL finds no CPU device ({last_error(shim)}): {_why(str(driver))}", INSTALL_CPU
        )
    if describe(queue).get("host_memory") != "1":
        raise SyclUnavailable(
            "the OpenCL CPU device does not reach torch's memory", f"{INSTALL_CPU}, on Linux"
        )
    return int(queue)


@contextmanager
def _driver(driver: os.PathLike[str]) -> Iterator[None]:
    """The wheel registers its driver with a path that is not there, so the loader is told."""
    before = os.environ.get("OCL_ICD_FILENAMES")
    os.environ["OCL_ICD_FILENAMES"] = str(driver)
    try:
        yield
    finally:
        if before is None:
            del os.environ["OCL_ICD_FILENAMES"]
        else:
            os.environ["OCL_ICD_FILENAMES"] = before


def _why(driver: str) -> str:
    """The reason behind PLATFORM_NOT_FOUND, which the OpenCL loader keeps to itself."""
    missing = [name for name in CPU_WHEELS if version_of(name) is None]
    if missing:
        return f"{', '.join(missing)} not installed"
    try:
        ctypes.CDLL(driver)
    except OSError as error:
        return f"its driver does not load: {error}"
    selector = os.environ.get("ONEAPI_DEVICE_SELECTOR")
    if selector:
        return f"ONEAPI_DEVICE_SELECTOR={selector!r} may exclude it"
    return "its driver loads, but offers no device"


def describe(queue: int) -> dict[str, str]:
    """name, platform, driver, compute_units, host_memory, fp16, sub_groups of a queue's device."""
    shim = load_shim()
    text = shim.pagoda_sycl_describe(ctypes.c_void_p(queue))
    if text is None:
        raise RuntimeError(f"a SYCL device does not answer: {last_error(shim)}")
    return dict(line.partition("=")[::2] for line in text.decode().splitlines())
