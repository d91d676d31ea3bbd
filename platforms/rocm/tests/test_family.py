"""The torch runner's view of an AMD GPU, with torch's own answers replaced."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pagoda.platform import Unavailable
from pagoda_rocm import arch

pytest.importorskip("triton")

GIB = 1 << 30


@pytest.fixture
def chips(monkeypatch: pytest.MonkeyPatch) -> list[SimpleNamespace]:
    """torch.cuda as a build for ROCm shows it, with three GPUs."""
    from pagoda_kernels_triton import tuning

    found = [
        SimpleNamespace(gcnArchName=name, multi_processor_count=units, total_memory=GIB, major=9)
        for name, units in (("gfx942:sramecc+:xnack-", 304), ("gfx1036", 2), ("gfx1100", 48))
    ]
    replaced: dict[str, Any] = {
        "get_device_properties": lambda device: found[getattr(device, "index", device)],
        "set_device": lambda device: None,
        "mem_get_info": lambda device: (GIB // 2, GIB),
        "memory_reserved": lambda device: 3 << 20,
        "memory_allocated": lambda device: 1 << 20,
        "graph_pool_handle": lambda: (0, 1),
        "Stream": lambda device: None,
    }
    for name, function in replaced.items():
        monkeypatch.setattr(torch.cuda, name, function)
    monkeypatch.setattr(torch.version, "hip", "7.0.5")
    tuning._asked.cache_clear()
    return found


def test_tables_go_by_the_name_without_its_suffixes(chips: list[Any]) -> None:
    from pagoda_kernels_triton import tuning

    target = tuning.target_of(torch.device("cuda", 0))
    assert target == tuning.Target("gfx942", 304)


def test_a_family_of_a_gpu(chips: list[Any]) -> None:
    from pagoda_rocm.family import make_family

    family = make_family(0, "bfloat16")
    assert family.device.device == torch.device("cuda", 0) and family.device.overlaps
    assert [backend.name for backend in family.attention] == ["triton", "gather"]
    assert family.graphs is not None and "rms_norm" in family.ops
    assert family.device.memory() == (GIB // 2 + (2 << 20), GIB)


def test_torch_counts_in_another_order_than_the_driver(chips: list[Any]) -> None:
    from pagoda_rocm.family import make_family

    with pytest.raises(Unavailable, match="rocm:1 cannot be used: gfx1036"):
        make_family(1, "bfloat16")


def test_heads_that_would_spill_are_left_to_others(
    chips: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    from pagoda_rocm.family import make_family
    from pagoda_torch.attention import AttentionSpec

    def refusal(index: int, dtype: str, size: int) -> str | None:
        layer = AttentionSpec(num_heads=8, num_kv_heads=4, head_size=size, scale=1.0)
        return make_family(index, dtype).attention[0].refuses(layer)

    assert refusal(0, "float32", 256) is refusal(2, "bfloat16", 256) is None
    assert "even number" in str(refusal(0, "bfloat16", 320))
    assert not caplog.records
    assert "heads of 256 in float32 do not fit gfx1100" in str(refusal(2, "float32", 256))
    assert "plain PyTorch" in caplog.text


def test_free_memory_is_not_reported(
    chips: list[Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from pagoda_rocm.family import make_family

    def refuse(device: object) -> Any:
        raise RuntimeError("HIP error: operation not supported")

    monkeypatch.setattr(torch.cuda, "mem_get_info", refuse)
    device = make_family(0, "bfloat16").device
    with caplog.at_level(logging.WARNING):
        assert device.memory() == device.memory() == (GIB - (1 << 20), GIB)
    assert caplog.text.count("operation not supported") == 1


@pytest.mark.parametrize(
    ("said", "name", "usable", "fp8"),
    [
        ("gfx942:sramecc+:xnack-", "gfx942", True, "float8_e4m3fnuz"),
        ("gfx940", "gfx940", True, "float8_e4m3fnuz"),
        ("GFX950", "gfx950", True, "float8_e4m3fn"),
        ("gfx90a:xnack+", "gfx90a", True, "float8_e4m3fn"),
        ("gfx1201", "gfx1201", True, "float8_e4m3fn"),
        ("gfx906", "gfx906", False, "float8_e4m3fn"),
        ("gfx1030", "gfx1030", False, "float8_e4m3fn"),
        ("sm_90", "", False, "float8_e4m3fn"),
        ("", "", False, "float8_e4m3fn"),
    ],
)
def test_architectures(said: str, name: str, usable: bool, fp8: str) -> None:
    assert arch.plain(said) == name
    assert (not arch.problem(said)) == usable
    assert arch.fp8(said) == fp8
    assert hasattr(torch, fp8)
