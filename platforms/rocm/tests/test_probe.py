"""What the probe says of libraries, drivers and GPUs that are there, broken, or not there."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from pagoda.platform import Unavailable
from pagoda_rocm import gpus, installed, plugin, smi
from pagoda_rocm.smi import Gpu

MI300X = ("AMD Instinct MI300X", "gfx942", 192 << 30)
RX7900 = ("AMD Radeon RX 7900 XTX", "gfx1100", 24 << 30)


class Failure(Exception):
    """As amdsmi's exceptions: a code and its name."""

    def __init__(self, code: int, name: str):
        super().__init__(f"Error code:\n\t{code} | {name}")


@pytest.mark.parametrize("count", [1, 8])
def test_gpus_are_numbered(machine: Any, count: int) -> None:
    library = machine([MI300X] * count)
    found = plugin.pagoda_probe()
    assert [device.id for device in found] == [str(i) for i in range(count)]
    assert {device.problem for device in found} == {""}
    assert found[-1].name == "AMD Instinct MI300X" and found[-1].memory_bytes == 192 << 30
    assert found[0].details["architecture"] == "gfx942"
    assert found[0].details["fp8"] == "float8_e4m3fnuz"
    assert library.open_count == 0


def test_no_gpu(machine: Any) -> None:
    library = machine([])
    with pytest.raises(Unavailable, match=r"sees no GPU, and PyTorch finds no GPU"):
        plugin.pagoda_probe()
    assert library.open_count == 0


def test_no_library(no_library: None) -> None:
    with pytest.raises(Unavailable, match=r"does not load \(KeyError\('libamd_smi.so'\)\)"):
        plugin.pagoda_probe()


def test_the_library_is_not_installed(build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "amdsmi", None)
    with pytest.raises(Unavailable, match="management library does not load"):
        plugin.pagoda_probe()


@pytest.mark.parametrize("function", ["amdsmi_init", "amdsmi_get_processor_handles"])
def test_the_driver_is_busy(machine: Any, function: str) -> None:
    library = machine([MI300X], **{function: Failure(30, "AMDSMI_STATUS_BUSY")})
    with pytest.raises(Unavailable, match=r"does not answer: .*AMDSMI_STATUS_BUSY"):
        plugin.pagoda_probe()
    assert library.open_count == 0


def test_pytorch_sees_what_the_library_does_not(
    machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine([])
    seen = [Gpu("AMD Instinct MI300X", "gfx942:sramecc+:xnack-", memory_bytes=1 << 30)]
    monkeypatch.setattr(gpus, "ask_torch", lambda: seen)
    (device,) = plugin.pagoda_probe()
    assert device.details["architecture"] == "gfx942" and not device.problem


def test_pytorch_is_asked_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = '[["RX", "gfx1100", 5]]'
    monkeypatch.setattr(gpus, "_QUESTION", f"print('a warning'); print('{answer}')")
    assert gpus.ask_torch() == [Gpu("RX", "gfx1100", memory_bytes=5)]
    for broken in ("raise OSError('libamdhip64.so')", "print('no answer')", ""):
        monkeypatch.setattr(gpus, "_QUESTION", broken)
        assert gpus.ask_torch() == []


def test_a_gpu_that_does_not_answer_is_listed(machine: Any) -> None:
    machine([MI300X], amdsmi_get_gpu_asic_info=Failure(30, "AMDSMI_STATUS_BUSY"))
    (device,) = plugin.pagoda_probe()
    assert "AMDSMI_STATUS_BUSY" in device.problem


def test_memory_and_uuid_are_not_reported(machine: Any) -> None:
    unknown = Failure(2, "AMDSMI_STATUS_NOT_SUPPORTED")
    machine([RX7900], amdsmi_get_gpu_memory_total=unknown, amdsmi_get_gpu_device_uuid=unknown)
    (device,) = plugin.pagoda_probe()
    assert device.memory_bytes == 0 and not device.problem and "uuid" not in device.details


def test_mixed_architectures(machine: Any) -> None:
    machine([MI300X, ("AMD Radeon Graphics", "gfx1036", 1 << 30), RX7900, ("N/A", "gfx", 0)])
    big, built_in, card, odd = plugin.pagoda_probe()
    assert not big.problem and not card.problem
    assert "gfx1036 has no matrix instructions" in built_in.problem
    assert "unknown" in odd.problem and odd.name == "AMD GPU gfx"
    assert (big.details["fp8"], card.details["fp8"]) == ("float8_e4m3fnuz", "float8_e4m3fn")


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({"HIP_VISIBLE_DEVICES": "1"}, ["gfx1100"]),
        ({"HIP_VISIBLE_DEVICES": "1,0"}, ["gfx1100", "gfx942"]),
        ({"CUDA_VISIBLE_DEVICES": "1"}, ["gfx1100"]),
        ({"HIP_VISIBLE_DEVICES": "0", "CUDA_VISIBLE_DEVICES": "1"}, ["gfx942"]),
        ({"ROCR_VISIBLE_DEVICES": "1", "HIP_VISIBLE_DEVICES": "0"}, ["gfx1100"]),
        ({"ROCR_VISIBLE_DEVICES": "GPU-01ff74a100001000"}, ["gfx1100"]),
        ({"HIP_VISIBLE_DEVICES": "0,7,1"}, ["gfx942"]),
        ({"HIP_VISIBLE_DEVICES": "0,0"}, ["gfx942"]),
    ],
)
def test_visible(
    machine: Any, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], wanted: list[str]
) -> None:
    machine([MI300X, RX7900])
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = plugin.pagoda_probe()
    assert [device.details["architecture"] for device in found] == wanted
    assert [device.id for device in found] == [str(i) for i in range(len(wanted))]


@pytest.mark.parametrize("said", ["", "-1", "2", "GPU-zz"])
def test_nothing_visible_names_the_variable(
    machine: Any, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    machine([MI300X, RX7900])
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", said)
    with pytest.raises(Unavailable, match=f"HIP_VISIBLE_DEVICES='{said}' names none of the 2"):
        plugin.pagoda_probe()


def test_torch_without_rocm(build: Path) -> None:
    (build / "version.py").write_text("__version__ = '2.13.0+cu130'\nhip: Optional[str] = None\n")
    with pytest.raises(Unavailable, match=r"PyTorch 2.13.0\+cu130 was built without ROCm"):
        plugin.pagoda_probe()


@pytest.mark.parametrize("missing", ["torch", "triton"])
def test_missing_packages(build: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    found = installed.find_spec
    monkeypatch.setattr(installed, "find_spec", lambda n: None if n == missing else found(n))
    with pytest.raises(Unavailable, match="is not installed"):
        plugin.pagoda_probe()


def test_diagnosis(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine([MI300X])
    found = plugin.pagoda_diagnose()
    assert found["hip"] == "7.0.5" and found["driver"] == "6.12.12"
    machine([], amdsmi_init=Failure(30, "AMDSMI_STATUS_BUSY"))
    assert "BUSY" in plugin.pagoda_diagnose()["driver"]
    with pytest.raises(Unavailable):
        smi.list_gpus()


def test_the_plugin_is_light() -> None:
    source = Path(str(importlib.util.find_spec("pagoda_rocm.plugin").origin))  # type: ignore[union-attr]
    top = [line for line in source.read_text().splitlines() if line.startswith(("import", "from"))]
    assert not any("torch" in line or "amdsmi" in line for line in top)
