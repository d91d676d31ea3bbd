"""Which kernels a runner is given: what was chosen or a refusal, never another."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch

from pagoda.platform import InvalidValue, PagodaError, RunnerConfig, Unavailable
from pagoda_kernels_sycl import runtime
from pagoda_torch.attention import AttentionSpec
from pagoda_xpu import devices, families
from pagoda_xpu.attention import SyclAttention


def config(**options: object) -> RunnerConfig:
    return RunnerConfig(dtype="float32", platform_options=options)


def test_sycl_by_default(sycl_cpu: str) -> None:
    family = families.make_family("sycl-cpu", config())
    assert [backend.name for backend in family.attention] == ["sycl"]
    assert set(family.ops) == {"rms_norm", "add_rms_norm", "silu_and_mul", "rotary"}


def test_torch_on_request() -> None:
    family = families.make_family("sycl-cpu", config(xpu_kernels="torch"))
    assert [backend.name for backend in family.attention] == ["gather"] and not family.ops


@pytest.mark.parametrize(
    ("installed", "why"),
    [
        ([], "Triton is not installed"),
        (["triton"], "no backend for Intel GPUs"),
    ],
)
def test_triton_says_what_it_lacks(
    monkeypatch: pytest.MonkeyPatch, installed: list[str], why: str
) -> None:
    monkeypatch.setattr(families, "XpuDevice", lambda index: SimpleNamespace(device=None))
    found = ["torch", *installed]
    monkeypatch.setattr(families, "find_spec", lambda name: name if name in found else None)
    with pytest.raises(Unavailable, match=why):
        families.make_family("0", config(xpu_kernels="triton"))


def test_what_the_cpu_cannot_do() -> None:
    with pytest.raises(Unavailable, match="needs a GPU"):
        families.make_family("sycl-cpu", config(xpu_kernels="triton"))
    with pytest.raises(PagodaError, match="has no graphs"):
        families.make_family("sycl-cpu", config(xpu_graphs=True))
    with pytest.raises(InvalidValue, match="must be one of sycl, triton, torch"):
        families.make_family("sycl-cpu", config(xpu_kernels="cuda"))


def test_sycl_without_its_run_time(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime.load_shim.cache_clear()
    monkeypatch.setattr(runtime, "_file_of", lambda *_: None)
    try:
        with pytest.raises(Unavailable, match=r"intel-sycl-rt.*cpu-device"):
            families.make_family("sycl-cpu", config())
    finally:
        runtime.load_shim.cache_clear()


@pytest.mark.parametrize(("size", "refused"), [(8, False), (256, False), (65, True), (320, True)])
def test_head_sizes(size: int, refused: bool) -> None:
    layer = AttentionSpec(4, 2, size, 0.1)
    assert bool(SyclAttention(2048).refuses(layer)) == refused


@pytest.mark.parametrize(
    ("max_len", "part"), [(64, 512), (512, 512), (2048, 512), (16384, 512), (131072, 4096)]
)
def test_parts_follow_from_the_longest_sequence_allowed(max_len: int, part: int) -> None:
    assert SyclAttention(max_len).part_keys == part


def test_memory_that_is_not_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(device: object) -> tuple[int, int]:
        raise RuntimeError("The device doesn't support querying the available free memory")

    api = SimpleNamespace(
        set_device=lambda device: None,
        mem_get_info=refused,
        memory_reserved=lambda device: 3 << 30,
        memory_allocated=lambda device: 1 << 30,
        get_device_properties=lambda device: SimpleNamespace(total_memory=16 << 30),
    )
    monkeypatch.setattr(torch, "xpu", api)
    monkeypatch.setattr(torch, "get_device_module", lambda device: api)
    device = devices.XpuDevice(0)
    with caplog.at_level(logging.WARNING):
        assert [device.memory() for _ in range(2)] == [(15 << 30, 16 << 30)] * 2
    (said,) = caplog.records
    assert "--kv-cache-memory" in said.getMessage()
