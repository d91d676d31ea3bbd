"""What the probe says of GPUs, drivers and PyTorch builds that are not there."""

from __future__ import annotations

import builtins
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace

import pytest

from pagoda.platform import InvalidValue, Unavailable
from pagoda_xpu import gpus, installed, plugin


class FakeXpu:
    """In place of ``torch.xpu``: properties by index, or what asking for them raises."""

    def __init__(self, *devices: object):
        self.devices = list(devices)

    def device_count(self) -> int:
        return len(self.devices)

    def get_device_properties(self, index: int) -> object:
        found = self.devices[index]
        if isinstance(found, Exception):
            raise found
        return found


def gpu(name: str = "Intel(R) Data Center GPU Max 1550", **more: object) -> SimpleNamespace:
    fields: dict[str, object] = {
        "name": name,
        "total_memory": 64 << 30,
        "sub_group_sizes": [16, 32],
        "architecture": 0x030F0000,
        "driver_version": "1.6.33578",
        "max_compute_units": 512,
        "has_bfloat16_conversions": True,
    }
    return SimpleNamespace(**{**fields, **more})


@pytest.fixture
def xpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeXpu:
    """A PyTorch built for XPU on a machine without GPUs; the test adds them."""
    (tmp_path / "version.py").write_text(
        "__version__ = '2.13.0+xpu'\nxpu: Optional[str] = '20260000'\n"
    )
    spec = ModuleSpec("torch", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(installed, "find_spec", lambda name: spec)
    fake = FakeXpu()
    monkeypatch.setattr(gpus, "_torch_xpu", lambda: fake)
    monkeypatch.setattr(gpus, "RENDER_NODES", str(tmp_path / "renderD*"))
    for name in (installed.SWITCH, *gpus.FILTERS):
        monkeypatch.delenv(name, raising=False)
    return fake


@pytest.mark.parametrize("count", [1, 8])
def test_gpus_are_numbered(xpu: FakeXpu, count: int) -> None:
    xpu.devices = [gpu() for _ in range(count)]
    found = plugin.pagoda_probe()
    assert [device.id for device in found] == [str(i) for i in range(count)]
    assert {device.problem for device in found} == {""}
    assert found[0].memory_bytes == 64 << 30
    assert found[0].details["driver"] == "1.6.33578"
    assert plugin.pagoda_capabilities(model=None, devices=found).dtypes[0] == "bfloat16"


def test_no_gpu_and_no_driver(xpu: FakeXpu) -> None:
    with pytest.raises(Unavailable, match=r"no GPU driver is loaded .*renderD.*another --device"):
        plugin.pagoda_probe()


def test_no_gpu_behind_a_driver(
    xpu: FakeXpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "renderD128").touch()
    with pytest.raises(Unavailable, match=r"torch.xpu sees no GPU.*libze-intel-gpu1"):
        plugin.pagoda_probe()
    monkeypatch.setattr(gpus.os, "access", lambda *_: False)
    with pytest.raises(Unavailable, match=r"renderD128 belongs to others.*render"):
        plugin.pagoda_probe()


@pytest.mark.parametrize("name", gpus.FILTERS)
def test_a_filter_that_leaves_nothing_is_named(
    xpu: FakeXpu, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "7")
    with pytest.raises(Unavailable, match=rf"left by {name}='7'.*unset {name}"):
        plugin.pagoda_probe()


def test_a_filter_that_leaves_some_is_torchs_business(
    xpu: FakeXpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZE_AFFINITY_MASK", "1")
    xpu.devices = [gpu()]
    assert [device.id for device in plugin.pagoda_probe()] == ["0"]


def test_a_busy_device_does_not_hide_the_others(xpu: FakeXpu) -> None:
    xpu.devices = [RuntimeError("UR_RESULT_ERROR_DEVICE_LOST"), gpu()]
    lost, usable = plugin.pagoda_probe()
    assert "does not answer: UR_RESULT_ERROR_DEVICE_LOST" in lost.problem
    assert not usable.problem and usable.id == "1"


def test_a_driver_that_does_not_answer(xpu: FakeXpu, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> int:
        raise RuntimeError("level_zero backend failed with error: 78")

    monkeypatch.setattr(xpu, "device_count", broken)
    with pytest.raises(Unavailable, match=r"failed with error: 78.*update Intel's GPU driver"):
        plugin.pagoda_probe()


def test_mixed_architectures(xpu: FakeXpu) -> None:
    """Each is described for itself; what is declared is what all chosen ones can."""
    old = gpu("Intel(R) UHD Graphics", sub_group_sizes=[8, 32], has_bfloat16_conversions=False)
    plain = gpu("Intel(R) Iris(R) Xe", sub_group_sizes=[8, 16], has_bfloat16_conversions=False)
    xpu.devices = [old, plain, gpu()]
    refused, weak, strong = plugin.pagoda_probe()
    assert refused.problem == "it has sub-groups of [8, 32], of 16 are needed"
    assert not weak.problem and not strong.problem
    declared = [
        plugin.pagoda_capabilities(model=None, devices=some).dtypes[0]
        for some in ([strong], [weak], [weak, strong])
    ]
    assert declared == ["bfloat16", "float16", "float16"]


def test_a_driver_that_reports_little(xpu: FakeXpu) -> None:
    bare = gpu()
    for name in ("total_memory", "sub_group_sizes", "driver_version", "architecture"):
        delattr(bare, name)
    xpu.devices = [bare]
    (found,) = plugin.pagoda_probe()
    assert found.memory_bytes == 0 and not found.problem
    assert found.details["driver"] == "unknown"


def test_torch_without_xpu(xpu: FakeXpu, tmp_path: Path) -> None:
    for line in ("xpu: Optional[str] = None\n", ""):
        (tmp_path / "version.py").write_text(f"__version__ = '2.13.0+cu130'\n{line}")
        with pytest.raises(
            Unavailable, match=r"2.13.0\+cu130 was built without XPU.*wheel for XPU"
        ):
            plugin.pagoda_probe()


def test_no_torch(xpu: FakeXpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "find_spec", lambda name: None)
    with pytest.raises(Unavailable, match=r"PyTorch is not installed.*wheel for XPU"):
        plugin.pagoda_probe()


def test_torch_with_a_library_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def broken(name: str, *rest: object, **more: object) -> object:
        if name == "torch":
            raise OSError("libsycl.so.9: cannot open shared object file")
        return real(name, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", broken)
    with pytest.raises(Unavailable, match=r"does not load: libsycl.so.9.*force-reinstall"):
        gpus._torch_xpu()


def test_the_switch_is_read_strictly(xpu: FakeXpu, monkeypatch: pytest.MonkeyPatch) -> None:
    xpu.devices = [gpu()]
    assert plugin.pagoda_platform().priority == 150
    monkeypatch.setenv(installed.SWITCH, "yes")
    with pytest.raises(InvalidValue, match="must be 0 or 1"):
        plugin.pagoda_probe()
    monkeypatch.setenv(installed.SWITCH, "0")
    assert [device.id for device in plugin.pagoda_probe()] == ["0"]
    monkeypatch.setenv(installed.SWITCH, "1")
    monkeypatch.setattr(plugin, "_cpu_name", lambda: "a CPU")
    assert [device.id for device in plugin.pagoda_probe()] == ["0", "sycl-cpu"]
    xpu.devices = []
    assert [device.id for device in plugin.pagoda_probe()] == ["sycl-cpu"]
    assert plugin.pagoda_platform().priority < 10


def test_the_diagnosis_needs_nothing(xpu: FakeXpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZE_AFFINITY_MASK", "0.1")
    said = plugin.pagoda_diagnose()
    assert said["torch"] == "2.13.0+xpu, XPU 20260000"
    assert said["ZE_AFFINITY_MASK"] == "0.1"
    assert "PAGODA_XPU_SYCL_CPU=1" in said["xpu:sycl-cpu (for tests)"]
