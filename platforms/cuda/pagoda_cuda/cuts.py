"""How a linear layer of some rows is cut over an H100 or H200; measured, llama3-8b's and
qwen3-0.6b's layers in chains, 16 to 256 rows."""

from __future__ import annotations

from dataclasses import dataclass

from pagoda_kernels_triton.sizes import num_parts

EACH = 64
"""Inputs fetched at a time."""
GROUP = 64
"""Outputs that one product of a group of four warps has."""
_SHARED_BYTES = 205_000
"""Of a multiprocessor's, for what is fetched."""
_LARGE = 1 << 23
"""Weights of a layer from which on reading them, not starting, is what takes the time."""


@dataclass(frozen=True)
class Cut:
    """One program's tile, and what it has to work with."""

    rows: int  # of x
    groups: int  # of warps that multiply, 1 or 2
    parts: int  # products of GROUP outputs of a group, 1 or 2; 2 where outputs are gated
    splits: int  # programs that share a tile, each some of the inputs
    stages: int  # fetched ahead, of EACH inputs
    registers: int | None  # of a thread, before groups take from the one that fetches

    @property
    def outputs(self) -> int:
        """Rows of the weight."""
        return self.groups * self.parts * GROUP


def cut_of(num_rows: int, num_outputs: int, size: int, gated: bool, num_units: int) -> Cut | None:
    """For x [num_rows, size] and num_outputs outputs, twice as many weights where ``gated``, on
    num_units multiprocessors.  None: the vendor's library is as fast."""
    large = num_outputs * size >= _LARGE
    if not 1 < num_rows <= (128 if large else 256):
        return None
    rows = 128 if large and num_rows > 64 else 64
    groups, parts = 1, 2 if gated else 1
    tiles = num_parts(num_outputs, GROUP) * num_parts(num_rows, rows)
    if tiles > num_units:
        groups, tiles = 2, num_parts(tiles, 2)
    if tiles > num_units and not gated:
        parts, tiles = 2, num_parts(tiles, 2)
    splits = max(1, min(4, num_units // tiles)) if size >= 2048 else 1
    stages = min(12, _SHARED_BYTES // ((rows + groups * parts * GROUP) * EACH * 2))
    registers = None if rows * parts > 128 else 168 if groups == 2 else 128
    return Cut(rows, groups, parts, splits, stages, registers)
