"""What the machine is said to be: cgroup limits, threads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pagoda.platform import InvalidValue
from pagoda_cpu import hardware


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


def test_a_level_that_the_cpu_lacks_is_said_by_the_probe() -> None:
    environment = dict(os.environ, PAGODA_CPU_ISA="sse9")
    told = subprocess.run(
        [sys.executable, "-c", "from pagoda_cpu.plugin import pagoda_probe; pagoda_probe()"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert "InvalidValue: PAGODA_CPU_ISA='sse9': must be one of portable" in told.stderr
    assert "Try: unset it" in told.stderr
