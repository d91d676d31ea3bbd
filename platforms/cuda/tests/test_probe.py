"""What the probe says of drivers, GPUs and PyTorch builds that are not there."""

from __future__ import annotations

import importlib.util
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from pagoda.platform import DeviceInfo, Unavailable
from pagoda_cuda import installed, nvml, plugin

ONE = nvml.Gpu("NVIDIA H200", "GPU-1111-aa", 140 << 30, (9, 0))
TWO = nvml.Gpu("NVIDIA H200", "GPU-2222-bb", 140 << 30, (9, 0))
OLD = nvml.Gpu("Tesla V100", "GPU-3333-cc", 16 << 30, (7, 0))


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PyTorch built for CUDA 13, and Triton."""
    (tmp_path / "version.py").write_text("__version__ = '2.11.0+cu130'\ncuda = '13.0'\n")
    spec = ModuleSpec("torch", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(installed, "find_spec", lambda name: spec)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path


@pytest.mark.parametrize("gpus", [[ONE], [ONE, TWO]])
def test_gpus_are_numbered(
    build: Path, monkeypatch: pytest.MonkeyPatch, gpus: list[nvml.Gpu]
) -> None:
    monkeypatch.setattr(nvml, "list_gpus", lambda: gpus)
    found = plugin.pagoda_probe()
    assert [device.id for device in found] == [str(i) for i in range(len(gpus))]
    assert {device.problem for device in found} == {""}
    assert found[0].memory_bytes == 140 << 30


def test_an_old_gpu_is_listed_with_its_problem(
    build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvml, "list_gpus", lambda: [OLD, ONE])
    old, new = plugin.pagoda_probe()
    assert "7.0" in old.problem and not new.problem
    assert "bfloat16" not in plugin.pagoda_capabilities(model=None, devices=[old]).dtypes
    assert plugin.pagoda_capabilities(model=None, devices=[new]).dtypes[0] == "bfloat16"


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (None, [ONE, TWO, OLD]),
        ("1", [TWO]),
        ("2,0", [OLD, ONE]),
        ("GPU-22", [TWO]),
        ("0,7,1", [ONE]),
        ("-1", []),
        ("", []),
        ("0,0", [ONE]),
        (" 1 , 0 ", [TWO, ONE]),
    ],
)
def test_visible(said: str | None, wanted: list[nvml.Gpu]) -> None:
    assert nvml.visible([ONE, TWO, OLD], said) == wanted


def test_nothing_visible_says_why(build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml, "list_gpus", lambda: [ONE])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(Unavailable, match=r"CUDA_VISIBLE_DEVICES='' names none of the 1 GPUs"):
        plugin.pagoda_probe()
    monkeypatch.setattr(nvml, "list_gpus", list)
    with pytest.raises(Unavailable, match="nvidia-smi"):
        plugin.pagoda_probe()


def test_no_driver(build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml, "LIBRARY", "libno-such-driver.so.1")
    with pytest.raises(Unavailable, match="driver"):
        plugin.pagoda_probe()


def test_torch_without_cuda(build: Path) -> None:
    (build / "version.py").write_text("__version__ = '2.13.0+cpu'\ncuda: Optional[str] = None\n")
    with pytest.raises(Unavailable, match=r"PyTorch 2.13.0\+cpu was built without CUDA"):
        plugin.pagoda_probe()
    (build / "version.py").write_text("__version__ = '2.11'\ncuda: Optional[str] = '13.0'\n")
    assert installed.torch_cuda_version() == "13.0"


@pytest.mark.parametrize("missing", ["torch", "triton"])
def test_missing_packages(build: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    found = installed.find_spec
    monkeypatch.setattr(installed, "find_spec", lambda n: None if n == missing else found(n))
    with pytest.raises(Unavailable, match=r"pip install 'pagoda-llm\[cuda\]'"):
        plugin.pagoda_probe()


def test_the_plugin_is_light() -> None:
    source = Path(str(importlib.util.find_spec("pagoda_cuda.plugin").origin))  # type: ignore[union-attr]
    top = [line for line in source.read_text().splitlines() if line.startswith(("import", "from"))]
    assert not any("torch" in line or "triton" in line for line in top)


@pytest.mark.parametrize(
    ("capability", "computed", "cached"),
    [
        ("7.5", "float16", 1),
        ("8.0", "bfloat16", 1),
        ("8.9", "bfloat16", 3),
        ("10.0", "bfloat16", 3),
    ],
)
def test_dtypes_follow_the_compute_capability(capability: str, computed: str, cached: int) -> None:
    device = DeviceInfo("0", "one", 1 << 30, "", {"compute capability": capability})
    newer = DeviceInfo("1", "two", 1 << 30, "", {"compute capability": "12.0"})
    found = plugin.pagoda_capabilities(model=None, devices=[device, newer])
    assert found.dtypes[0] == computed and len(found.kv_dtypes) == cached
