"""Which Intel GPUs there are, as torch.xpu sees them: its numbering is the one that counts, and it
keeps to ZE_AFFINITY_MASK and ONEAPI_DEVICE_SELECTOR."""

from __future__ import annotations

import glob
import os
from typing import Any

from pagoda.platform import DeviceInfo, Unavailable
from pagoda_xpu.installed import require_torch_xpu

SUB_GROUP = 16
"""Work-items of the sub-groups that the SYCL kernels ask for."""

RENDER_NODES = "/dev/dri/renderD*"
FILTERS = ("ZE_AFFINITY_MASK", "ONEAPI_DEVICE_SELECTOR")


def list_gpus() -> list[DeviceInfo]:
    """Every GPU that this process may use, each with its problem.  Raises Unavailable with the
    reason when there is none."""
    require_torch_xpu()
    api = _torch_xpu()
    try:
        count = int(api.device_count())
    except RuntimeError as error:
        raise Unavailable(
            f"torch.xpu does not answer: {error}", "update Intel's GPU driver (intel-opencl-icd)"
        ) from error
    if not count:
        raise _nothing_found()
    return [_describe(api, index) for index in range(count)]


def _torch_xpu() -> Any:
    try:
        import torch
    except (ImportError, OSError) as error:  # a library of its own or of Intel's that is not there
        remedy = "pip install --force-reinstall torch, from the index its XPU build came from"
        raise Unavailable(f"PyTorch for XPU does not load: {error}", remedy) from error
    return torch.xpu


def _nothing_found() -> Unavailable:
    for name in FILTERS:
        if name in os.environ:
            said = os.environ[name]
            return Unavailable(f"no Intel GPU is left by {name}={said!r}", f"unset {name}")
    nodes = glob.glob(RENDER_NODES)
    if not nodes:
        return Unavailable(
            f"no GPU driver is loaded (no {RENDER_NODES})",
            "install Intel's GPU driver, or another --device",
        )
    if not any(os.access(node, os.R_OK | os.W_OK) for node in nodes):
        return Unavailable(
            f"{nodes[0]} belongs to others", "add yourself to its group: usermod -aG render"
        )
    return Unavailable(
        "torch.xpu sees no GPU",
        "install Intel's compute run time (libze-intel-gpu1, libze1), or another --device",
    )


def _describe(api: Any, index: int) -> DeviceInfo:
    try:
        found = api.get_device_properties(index)
    except RuntimeError as error:
        return DeviceInfo(str(index), "unknown", problem=f"it does not answer: {error}")
    sizes = [int(size) for size in getattr(found, "sub_group_sizes", ())]
    problem = ""
    if sizes and SUB_GROUP not in sizes:
        problem = f"it has sub-groups of {sizes}, of {SUB_GROUP} are needed"
    details = {
        "architecture": f"{getattr(found, 'architecture', 0):#x}",
        "driver": str(getattr(found, "driver_version", "unknown")),
        "compute units": str(getattr(found, "max_compute_units", "unknown")),
        "bfloat16": "yes" if getattr(found, "has_bfloat16_conversions", True) else "no",
    }
    memory = int(getattr(found, "total_memory", 0))
    return DeviceInfo(str(index), str(found.name), memory, problem, details)
