"""What is said where the run time, its compiler or its device is missing or broken."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
import torch

from pagoda_kernels_sycl import programs, queues, runtime
from pagoda_kernels_sycl.runtime import Runtime, SyclUnavailable


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runtime:
    """A run time that is nowhere, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Runtime("2026.2.0", tmp_path / "include", tmp_path / "lib")


def test_no_run_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "_file_of", lambda *_: None)
    monkeypatch.setattr(runtime, "version_of", lambda name: None)
    with pytest.raises(
        SyclUnavailable, match=r"intel-sycl-rt, .* is not installed.*\[cpu-device\]"
    ):
        runtime.find_runtime()
    monkeypatch.setattr(runtime, "version_of", lambda name: "2024.1")
    with pytest.raises(SyclUnavailable, match=r"intel-sycl-rt 2024.1 lacks its headers"):
        runtime.find_runtime()


def test_no_compiler(here: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(runtime.shutil, "which", lambda name: None)
    with pytest.raises(SyclUnavailable, match=r"g\+\+ is not on PATH.*apt install"):
        runtime.compile_shim(here)


def test_a_compiler_that_fails_is_quoted(here: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = here.include.parent / "broken-g++"
    compiler.write_text("#!/bin/sh\necho 'sycl.hpp: No such file' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(SyclUnavailable, match=r"shim.cpp with intel-sycl-rt 2026.2.0: sycl.hpp"):
        runtime.compile_shim(here)
    assert not list(runtime.cache_folder().iterdir())


def test_a_compiled_shim_is_kept(here: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler, log = here.include.parent / "g++", here.include.parent / "calls"
    compiler.write_text(f'#!/bin/sh\necho x >> {log}\nfor a; do last=$a; done\ntouch "$last"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    assert runtime.compile_shim(here) == runtime.compile_shim(here)
    assert log.read_text() == "x\n"


def test_why_there_is_no_platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the loader calls PLATFORM_NOT_FOUND."""
    monkeypatch.delenv("ONEAPI_DEVICE_SELECTOR", raising=False)
    monkeypatch.setattr(
        queues, "version_of", lambda name: None if name == "intel-cmplr-lib-rt" else "2026.2.0"
    )
    assert queues._why("libintelocl.so") == "intel-cmplr-lib-rt not installed"
    monkeypatch.setattr(queues, "version_of", lambda name: "2026.2.0")
    broken = tmp_path / "libintelocl.so"
    broken.write_text("no library")
    assert "does not load" in queues._why(str(broken)) and str(broken) in queues._why(str(broken))
    monkeypatch.setattr(ctypes, "CDLL", lambda path: None)
    assert "offers no device" in queues._why("libintelocl.so")
    monkeypatch.setenv("ONEAPI_DEVICE_SELECTOR", "level_zero:*")
    assert "'level_zero:*' may exclude it" in queues._why("libintelocl.so")


def test_the_environment_is_left_as_it_was(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OCL_ICD_FILENAMES", raising=False)
    with queues._driver("somewhere"):
        assert queues.os.environ["OCL_ICD_FILENAMES"] == "somewhere"
    assert "OCL_ICD_FILENAMES" not in queues.os.environ


def test_a_kernel_that_does_not_compile_is_quoted(
    device: torch.device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for file in programs.SOURCE.iterdir():
        (tmp_path / file.name).write_text(file.read_text())
    (tmp_path / "small.sycl").write_text("KERNEL broken(float *x) { x[0] = nonsense; }\n")
    monkeypatch.setattr(programs, "SOURCE", tmp_path)
    with pytest.raises(
        SyclUnavailable, match=r"small.sycl for float do not compile[\s\S]*nonsense"
    ):
        programs.kernels("small.sycl", device, torch.float32, LANES=16)
