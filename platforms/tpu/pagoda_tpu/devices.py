"""What ``pagoda platforms`` and ``pagoda doctor`` say of TPUs here.  Imports no runtime."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from pagoda.platform import DeviceInfo, Unavailable
from pagoda_tpu import chips
from pagoda_tpu.environment import EMULATE, num_emulated

INSTALL = "pip install 'pagoda-llm[tpu]'"
NEEDED = {"torch": "PyTorch", "torch_xla": "torch-xla", "jax": "JAX"}
VERSION = "2.9"
"""Of torch and torch-xla: another torch breaks torch-xla's binary interface."""


def find_devices() -> list[DeviceInfo]:
    """The chips of this host, or the CPU's devices where emulation was asked for."""
    _require_packages()
    emulated = num_emulated()
    if emulated:
        name = f"XLA on the host's CPU in place of a TPU ({EMULATE}={emulated})"
        return [DeviceInfo(str(i), name, details={"emulated": "yes"}) for i in range(emulated)]
    if find_spec("libtpu") is None:
        raise Unavailable("libtpu, the TPU's driver library, is not installed", INSTALL)
    found = chips.find_chips()
    if not found:
        raise Unavailable(
            "no TPU is on this machine's PCI bus",
            f"a TPU VM, or {EMULATE}=1 to have the CPU play one in tests",
        )
    problem = _whole_problem()
    return [_describe(chip, problem) for chip in found]


def _require_packages() -> None:
    for module, name in NEEDED.items():
        if find_spec(module) is None:
            raise Unavailable(f"{name} is not installed", INSTALL)
    for package in ("torch", "torch_xla"):
        found = version(package)
        if not found.startswith(f"{VERSION}."):
            raise Unavailable(
                f"{NEEDED[package]} {found} is installed; {VERSION} is needed, of both torch and"
                " torch-xla, whose line ended there",
                f"an environment of its own, and there {INSTALL}",
            )


def _whole_problem() -> str:
    """What stands in the way of all chips alike."""
    files = chips.device_files()
    if not files:
        return "no device file: neither /dev/accel* nor /dev/vfio/*"
    if pids := chips.holders(files):
        return f"in use by process {', '.join(map(str, pids))}"
    return ""


def _describe(chip: chips.Chip, problem: str) -> DeviceInfo:
    if chip.generation is None:
        return DeviceInfo(str(chip.index), chip.name, problem="v4 is the oldest that is served")
    return DeviceInfo(str(chip.index), chip.name, chip.generation.memory_bytes, problem)


def diagnosis() -> dict[str, str]:
    found = {}
    for package in ("torch", "torch_xla", "libtpu", "jax", "jaxlib"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    found["chips"] = ", ".join(chip.name for chip in chips.find_chips()) or "none"
    found["emulated devices"] = f"{num_emulated()} ({EMULATE})"
    return found
