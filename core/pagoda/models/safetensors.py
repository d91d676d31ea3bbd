"""The header of a safetensors file, every bound checked: nothing in the file is trusted.

Layout: 8 bytes little-endian length n, n bytes of JSON, then the tensors' bytes."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pagoda.models.strict_json import parse_object
from pagoda.platform.errors import BadCheckpoint

DTYPE_BITS = {
    **{"BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8},
    **{"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "I16": 16, "U16": 16, "F16": 16, "BF16": 16},
    **{"I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64},
}
LFS_POINTER = b"version "  # begins what a clone without Git LFS has in a file's place
MAX_HEADER_BYTES = 100_000_000  # the format's own limit


@dataclass(frozen=True)
class TensorEntry:
    """Where a tensor lies in its file; offsets in bytes from the file's beginning."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_entries(file: Path) -> list[TensorEntry]:
    """The tensors of one file, in the order of their bytes.  Raises BadCheckpoint."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        first = opened.read(8)
        if first == LFS_POINTER:
            raise BadCheckpoint(
                f"{file}: a Git LFS pointer, and not the file it stands for", "git lfs pull"
            )
        length = int.from_bytes(first, "little")
        if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
            raise BadCheckpoint(
                f"{file}: not a safetensors file, or cut short"
                f" ({size} bytes, its header claims {length})",
                "copy or download it again",
            )
        header = parse_object(opened.read(length), f"{file} (header)")
    header.pop("__metadata__", None)
    start = 8 + length
    entries = [_entry(file, name, value, start, size) for name, value in header.items()]
    entries.sort(key=lambda entry: (entry.begin, entry.end))
    for before, after in itertools.pairwise(entries):
        if after.begin < before.end:
            raise BadCheckpoint(f"{file}: tensors {before.name} and {after.name} overlap")
    return entries


def _entry(file: Path, name: str, value: Any, start: int, size: int) -> TensorEntry:
    where = f"{file}: tensor {name}"
    if not isinstance(value, dict):
        raise BadCheckpoint(f"{where}: its entry is not an object")
    dtype: Any = value.get("dtype")
    shape: Any = value.get("shape")
    offsets: Any = value.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise BadCheckpoint(f"{where}: unknown dtype {dtype!r}")
    if not _naturals(shape):
        raise BadCheckpoint(f"{where}: malformed shape {shape!r}")
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise BadCheckpoint(f"{where}: malformed data_offsets {offsets!r}")
    begin, end = start + offsets[0], start + offsets[1]
    if end > size:
        raise BadCheckpoint(
            f"{where}: its bytes end at {end}, but the file has {size}: cut short",
            "copy or download it again",
        )
    bits = math.prod(shape) * DTYPE_BITS[dtype]
    if bits != 8 * (end - begin):
        raise BadCheckpoint(f"{where}: {dtype} {shape} does not fill its {end - begin} bytes")
    return TensorEntry(name, dtype, tuple(shape), begin, end)


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in value
    )
