"""OpenVINO's devices, and what stands in the way of those that cannot be used."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

import openvino as ov

from pagoda.platform import DeviceInfo, Unavailable
from pagoda_openvino import machine
from pagoda_openvino.cache import read_layout
from pagoda_openvino.compiling import core
from pagoda_openvino.paged_attention import Heads, attention_alone, require_known_op

NOT_HOST = (
    "pagoda-openvino keeps the KV cache in host memory, which OpenVINO's {kind} plugin would copy"
    " at every step; only the CPU is served so far"
)


def find_devices() -> list[DeviceInfo]:
    """The CPU first, then the others with their problems.  Raises Unavailable where this
    OpenVINO's paged attention is another than the one known."""
    require_known_op()
    total, _ = machine.memory()
    names = core().available_devices
    found = []
    if "CPU" in names:
        capable = capabilities_of("CPU")
        found.append(
            DeviceInfo(
                "CPU",
                str(core().get_property("CPU", "FULL_DEVICE_NAME")),
                memory_bytes=total,
                problem=capable.problem,
                details={
                    "openvino": ov.__version__,
                    "capabilities": " ".join(capable.words),
                    "cores": str(machine.num_cores()),
                },
            )
        )
        automatic = "the device of these that can be used: CPU"
        found.append(DeviceInfo("AUTO", automatic, memory_bytes=total, problem=capable.problem))
    found += [_accelerator(name) for name in names if name != "CPU"]
    for kind in ("GPU", "NPU"):
        if not any(name.split(".")[0] == kind for name in names):
            found.append(DeviceInfo(kind, f"Intel {kind}", problem=_absence(kind)))
    return found


@dataclass(frozen=True)
class Capable:
    """What one device was found to do."""

    words: tuple[str, ...]  # OpenVINO's OPTIMIZATION_CAPABILITIES
    block_size: int = 0
    problem: str = ""


@functools.cache
def capabilities_of(device: str) -> Capable:
    """Ask the device, and compile one layer of attention to see how it cuts its cache."""
    words = tuple(map(str, core().get_property(device, "OPTIMIZATION_CAPABILITIES")))
    try:
        compiled = core().compile_model(
            attention_alone(Heads(2, 1, 64)),
            device,
            {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"},
        )
        return Capable(words, read_layout(compiled).block_size)
    except RuntimeError as error:
        return Capable(words, problem=f"it does not compile paged attention: {_last_line(error)}")


def openvino_name(devices: tuple[DeviceInfo, ...]) -> str:
    """OpenVINO's word for the device that a runner was given."""
    name = devices[0].id if devices else "CPU"
    if name not in ("CPU", "AUTO"):
        raise Unavailable(f"device openvino:{name} is not served", "openvino:CPU")
    return "CPU"


def _accelerator(name: str) -> DeviceInfo:
    try:
        spoken = str(core().get_property(name, "FULL_DEVICE_NAME"))
    except RuntimeError as error:
        return DeviceInfo(name, name, problem=_last_line(error))
    return DeviceInfo(name, spoken, problem=NOT_HOST.format(kind=name.split(".")[0]))


def _absence(kind: str) -> str:
    """Why OpenVINO does not list a kind of device, in its own words where it has some."""
    try:
        core().get_property(kind, "AVAILABLE_DEVICES")
    except RuntimeError as error:
        return f"OpenVINO finds none here: {_last_line(error)}"
    return "OpenVINO finds none here"


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = lines[-1] if lines else repr(error)
    return re.sub(r'"[^"]*/([^"/]+)"', r"\1", told)[:200]  # a library by its name, without folders
