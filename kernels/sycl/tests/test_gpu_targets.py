"""The kernels as GPUs get them, compiled by Intel's GPU compiler to machine code for PVC and DG2,
where Debian's ``ocloc`` is: on PATH, or unpacked in the folder that OCLOC_ROOT names."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from pagoda_kernels_sycl.tuning import lanes_of, rows_of

GPU = torch.device("xpu")
CASES = [("small.sycl", "bfloat16", 0), ("attention.sycl", "bfloat16", 128)]
CASES += [("attention.sycl", "half", 64), ("attention.sycl", "float", 256)]
BUILD = """
import sys, torch
from pagoda_kernels_sycl import programs
file, element, *defines = sys.argv[1:]
pairs = sorted((key, int(value)) for key, value in (x.split("=") for x in defines))
programs._build(file, torch.device("cpu"), element, tuple(pairs))
"""


@pytest.fixture(scope="module")
def ocloc() -> tuple[str, dict[str, str]]:
    """The command and its environment."""
    root = os.environ.get("OCLOC_ROOT", "")
    found = shutil.which("ocloc", path=f"{root}/usr/bin" if root else None)
    if found is None:
        pytest.skip("no ocloc: apt install intel-opencl-icd, or unpack it and set OCLOC_ROOT")
    libraries = f"{root}/usr/lib/x86_64-linux-gnu" if root else ""
    return found, {**os.environ, "LD_LIBRARY_PATH": libraries}


@pytest.mark.parametrize(("file", "element", "size"), CASES)
def test_machine_code(
    device: torch.device,
    ocloc: tuple[str, dict[str, str]],
    tmp_path: Path,
    file: str,
    element: str,
    size: int,
) -> None:
    """16 lanes, and nothing in scratch or private memory."""
    defines = [f"LANES={lanes_of(GPU)}"]
    if size:
        defines += [f"HEAD_SIZE={size}", f"ROWS={rows_of(GPU, size)}"]
    make_spirv(tmp_path, [file, element, *defines])
    command, environment = ocloc
    for target in ("pvc", "dg2-g10"):
        source = ["-spirv_input", "-file", "sycl_spir64.spv"]
        options = ["-out_dir", target, "-internal_options", "-cl-intel-allow-zebin"]
        done = subprocess.run(
            [command, "compile", "-q", *source, "-device", target, *options],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        (binary,) = (tmp_path / target).glob("*.bin")
        kernels = read_kernels(binary.read_bytes())
        assert len(kernels) == 3, kernels
        for name, text in kernels.items():
            assert re.search(r"simd_size: +16\b", text), name
            spilled = re.findall(r"usage: +(\w+_space)\s+size: +(\d+)", text)
            assert not spilled, f"{name} on {target}: {spilled}"


def make_spirv(folder: Path, arguments: list[str]) -> None:
    """Have the run time leave the SPIR-V it makes; what it makes of that for the CPU is not
    waited for."""
    process = subprocess.Popen(
        [sys.executable, "-c", BUILD, *arguments],
        cwd=folder,
        env={**os.environ, "SYCL_DUMP_IMAGES": "1"},
    )
    size = -1
    while process.poll() is None:
        time.sleep(0.2)
        found = list(folder.glob("*.spv"))
        if found and found[0].stat().st_size == size:
            break
        size = found[0].stat().st_size if found else -1
    process.kill()
    process.wait()


def read_kernels(binary: bytes) -> dict[str, str]:
    """What the binary's notes say of each kernel."""
    text = binary[binary.index(b"kernels:") :].partition(b"\0")[0].decode(errors="replace")
    parts = re.split(r"\n\s*- *name: *", text.partition("kernels_misc_info")[0])[1:]
    named = {part.split()[0]: part for part in parts}
    return {name: part for name, part in named.items() if "__sycl_kernel_" in name}
