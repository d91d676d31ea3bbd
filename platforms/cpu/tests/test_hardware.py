"""What the machine is said to be: cgroup limits, threads, ops that need no special instructions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from pagoda.platform import InvalidValue
from pagoda_cpu import hardware
from pagoda_cpu.ops import CHUNK, WidenedLinear, cpu_ops


def test_memory_obeys_the_cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_CGROUP", tmp_path)
    total, _ = hardware.memory()
    (tmp_path / "memory.max").write_text("300000000\n")
    (tmp_path / "memory.current").write_text("120000000\n")
    (tmp_path / "memory.stat").write_text("anon 90000000\ninactive_file 20000000\n")
    assert total > 300_000_000
    assert hardware.memory() == (300_000_000, 200_000_000)
    (tmp_path / "memory.max").write_text("max\n")
    assert hardware.memory()[0] == total


def test_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_CGROUP", tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert hardware.num_threads(None) == 7
    assert hardware.num_threads(3) == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert hardware.num_threads(None) == hardware.num_cores() >= 1
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert hardware.num_threads(None) == 1
    with pytest.raises(InvalidValue, match="cpu_threads=0"):
        hardware.num_threads(0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("rows", [1, 2, 3, 40])
def test_products_equal_the_plain_one(dtype: str, rows: int) -> None:
    torch.manual_seed(0)
    kind = getattr(torch, dtype)
    overrides = dict(cpu_ops(dtype))
    inputs = 640
    outputs = CHUNK // inputs + 100  # more than one piece
    x, weight, bias = (
        torch.randn(*shape).to(kind) for shape in ((rows, inputs), (outputs, inputs), (outputs,))
    )
    wanted = F.linear(x.double(), weight.double(), bias.double())
    prepare = overrides.get("prepare_linear", lambda w: w)
    products = [WidenedLinear(), overrides.get("linear", F.linear)]
    for product, given in zip(products, (weight, prepare(weight)), strict=True):
        found = product(x, given, bias)
        assert found.dtype == kind
        tolerance = {"float32": 1e-4, "bfloat16": 0.5, "float16": 0.06}[dtype]
        torch.testing.assert_close(found.double(), wanted, atol=tolerance, rtol=0)
