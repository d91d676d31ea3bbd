"""Which kernels are chosen: the best that the CPU has, or what the environment says."""

from __future__ import annotations

import os
import subprocess
import sys
from types import ModuleType

import pytest

from pagoda_kernels_cpu import level

PROGRAM = "import pagoda_kernels_cpu as k; print(k.LEVEL, k.native.__name__)"


def run(asked: str | None, program: str = PROGRAM) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != level.VARIABLE}
    if asked is not None:
        environment[level.VARIABLE] = asked
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_the_best_is_taken() -> None:
    best = level.allowed()[0][-1]
    done = run(None)
    assert done.stdout.split() == [best, f"pagoda_kernels_cpu._{best}"]
    assert ("slow portable" in done.stderr) == (best == "portable")


def test_the_environment_is_obeyed() -> None:
    done = run("portable")
    assert done.stdout.split() == ["portable", "pagoda_kernels_cpu._portable"]
    assert not done.stderr


def test_an_unknown_level_is_named() -> None:
    done = run("sse9")
    assert done.returncode and "PAGODA_CPU_ISA='sse9': must be one of portable" in done.stderr


def test_what_the_cpu_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(level._cpuid, "best_level", lambda: ("avx2", "the CPU has no AVX-512"))
    with pytest.raises(RuntimeError, match="PAGODA_CPU_ISA='amx': the CPU has no AVX-512; this"):
        level.load("amx")


def test_a_portable_cpu_is_warned_about(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv(level.VARIABLE, raising=False)
    monkeypatch.setattr(level._cpuid, "best_level", lambda: ("portable", "the CPU has no AVX2"))
    assert level.choose() == "portable"
    assert [r.message for r in caplog.records] == [
        "slow portable CPU kernels are used: the CPU has no AVX2"
    ]


def test_threads(native: ModuleType) -> None:
    for count in (3, 8, 1):
        native.set_num_threads(count)
        assert native.num_threads() == count
    native.set_num_threads(0)
    assert native.num_threads() == 1
