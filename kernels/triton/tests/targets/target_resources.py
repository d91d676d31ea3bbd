"""What a compiled kernel takes of its chip: registers, spills, shared memory, matrix instructions;
and what of it would not do."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from fake_driver import Chip

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
MATRIX = {
    "hip": r"\bv_(?:mfma|wmma)_\w+",
    "cuda": r"\b(?:wgmma\.mma_async|tcgen05\.mma|mma\.sync)\b",
}
NOISE_BYTES = 64
"""Of spills that ptxas may make in passing; AMD's compiler is held to none."""


@dataclass(frozen=True)
class Resources:
    """Of one binary."""

    registers: int  # a thread's, accumulators included
    spill_bytes: int  # NVIDIA: stores and loads; AMD: scratch, and 4 a spilled vector register
    scalar_spills: int  # AMD: to lanes of vector registers, which is no memory
    shared_bytes: int
    matrix: str  # the first matrix instruction, if any
    buffers: bool  # AMD: memory reached with 32-bit offsets from a base
    is_elf: bool

    def problems(self, chip: Chip, wants_matrix: bool) -> list[str]:
        found = []
        if not self.is_elf:
            found.append("not a linked binary")
        if self.spill_bytes > (0 if chip.target.backend == "hip" else NOISE_BYTES):
            found.append(f"{self.spill_bytes} bytes spilled")
        if self.shared_bytes > chip.shared_bytes:
            found.append(f"{self.shared_bytes} bytes of shared memory")
        if wants_matrix and not self.matrix:
            found.append("no matrix instruction")
        return found


def resources(kernel: Any, chip: Chip) -> Resources:
    """Read from a CompiledKernel's assembly and binary."""
    return _amd(kernel) if chip.target.backend == "hip" else _nvidia(kernel)


def _amd(kernel: Any) -> Resources:
    text = kernel.asm["amdgcn"]
    notes = text[text.rindex(".amdgpu_metadata") :]

    def noted(key: str) -> int:
        found = re.search(rf"\.{key}:\s+(\d+)", notes)
        return int(found[1]) if found else 0

    return Resources(
        registers=noted("vgpr_count"),
        spill_bytes=noted("private_segment_fixed_size") + 4 * noted("vgpr_spill_count"),
        scalar_spills=noted("sgpr_spill_count"),
        shared_bytes=kernel.metadata.shared,
        matrix=_first(MATRIX["hip"], text),
        buffers="buffer_load" in text or "buffer_store" in text,
        is_elf=kernel.asm["hsaco"][:4] == b"\x7fELF",
    )


def _nvidia(kernel: Any) -> Resources:
    ptx, capability = kernel.asm["ptx"], kernel.metadata.target.arch
    tool = TOOLS / ("ptxas-blackwell" if capability >= 100 else "ptxas")
    chip = re.search(r"\.target\s+(sm_\w+)", ptx)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.ptx")
        source.write_text(ptx)
        command = [tool, "-v", f"--gpu-name={chip[1] if chip else ''}", source, "-o", f"{folder}/o"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    registers = re.search(r"Used (\d+) registers", said)
    spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", said)
    return Resources(
        registers=int(registers[1]) if registers else 0,
        spill_bytes=int(spills[1]) + int(spills[2]) if spills else 0,
        scalar_spills=0,
        shared_bytes=kernel.metadata.shared,
        matrix=_first(MATRIX["cuda"], ptx),
        buffers=False,
        is_elf=kernel.asm["cubin"][:4] == b"\x7fELF",
    )


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    return found[0] if found else ""
