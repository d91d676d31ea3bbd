"""Tile sizes by architecture: measured on an H200 for sm_90, elsewhere what compiles without
spilling (the matrix in the README).

Tables instead of autotuning: start-up stays short and the same input gives the same bits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import torch
from triton import knobs

INTERPRETED = bool(knobs.runtime.interpret)


@dataclass(frozen=True)
class Tile:
    """How one kernel is cut and scheduled."""

    rows: int  # query rows of a program: tokens times the heads that share keys
    keys: int  # keys taken at a time
    warps: int
    stages: int


@dataclass(frozen=True)
class Tiles:
    """One kernel's tiles on one architecture; a head is large above 128.  None: nothing that was
    tried stays in registers."""

    small: Tile | None  # 16-bit elements
    large: Tile | None
    small_float: Tile | None  # 32-bit elements
    large_float: Tile | None

    def of(self, head_size: int, itemsize: int) -> Tile | None:
        if itemsize == 4:
            return self.large_float if head_size > 128 else self.small_float
        return self.large if head_size > 128 else self.small


@dataclass(frozen=True)
class Target:
    """What the tables go by."""

    arch: str  # a row of the tables
    num_units: int  # multiprocessors, or compute units


_NVIDIA = ("sm_80", "sm_89", "sm_100", "sm_120")  # beside the one that was measured
_FLOAT = Tile(64, 32, 4, 1), Tile(32, 32, 4, 1)
_PREFILL = {
    "": Tiles(Tile(64, 32, 4, 1), Tile(64, 32, 4, 1), *_FLOAT),
    **dict.fromkeys(
        _NVIDIA,
        Tiles(Tile(64, 32, 4, 1), Tile(64, 32, 8, 1), Tile(32, 32, 8, 1), Tile(32, 32, 16, 1)),
    ),
    "sm_90": Tiles(Tile(128, 64, 4, 3), Tile(128, 64, 8, 2), *_FLOAT),
    **dict.fromkeys(
        ("gfx90a", "gfx942", "gfx950"), Tiles(Tile(128, 32, 4, 1), Tile(64, 32, 4, 1), *_FLOAT)
    ),
    # RDNA: 256 registers a lane, and no matrix instructions for float32.
    "gfx1100": Tiles(Tile(64, 32, 4, 1), Tile(16, 32, 16, 1), Tile(16, 16, 8, 1), None),
    "gfx1201": Tiles(Tile(64, 32, 4, 1), Tile(32, 16, 4, 1), Tile(16, 16, 8, 1), None),
}
_FLOAT = Tile(16, 32, 4, 2), Tile(16, 32, 4, 2)
_NARROW = Tile(16, 16, 8, 1), Tile(16, 16, 8, 2)
_DECODE = {
    "": Tiles(*[Tile(16, 32, 4, 1)] * 4),
    **dict.fromkeys(_NVIDIA, Tiles(Tile(16, 32, 4, 1), Tile(16, 32, 4, 1), *_NARROW)),
    "sm_80": Tiles(Tile(16, 64, 4, 2), Tile(16, 32, 4, 2), *_NARROW),
    "sm_90": Tiles(Tile(16, 64, 2, 3), Tile(16, 32, 4, 2), *_FLOAT),
    "gfx1100": Tiles(Tile(16, 32, 4, 1), Tile(16, 32, 16, 1), Tile(16, 16, 16, 1), None),
    "gfx1201": Tiles(Tile(16, 32, 4, 1), Tile(16, 32, 4, 1), Tile(16, 16, 8, 1), None),
}
_SHARED_FLOAT = {
    "gfx1100": Tile(16, 16, 16, 1),
    **dict.fromkeys(("gfx1201", *_NVIDIA), Tile(16, 16, 8, 1)),
}
_ALIKE = {
    **dict.fromkeys(("sm_86", "sm_87"), "sm_89"),
    **{"sm_103": "sm_100", "sm_121": "sm_120", "gfx908": "gfx90a", "gfx1200": "gfx1201"},
    **dict.fromkeys(("gfx940", "gfx941"), "gfx942"),
    **dict.fromkeys(("gfx1101", "gfx1102", "gfx1103", "gfx1150", "gfx1151"), "gfx1100"),
}
_stand_in = Target("", 1)


def assume(target: Target) -> None:
    """Take ``target`` for what CPU tensors are on: for the interpreter, and for compiling without
    a device."""
    global _stand_in
    _stand_in = target


def target_of(device: torch.device) -> Target:
    """The target behind a torch device."""
    return _stand_in if device.type == "cpu" else _asked(device)


@cache
def _asked(device: torch.device) -> Target:
    if device.type == "xpu":
        return Target("xpu", torch.xpu.get_device_properties(device).max_compute_units)
    found = torch.cuda.get_device_properties(device)
    arch = f"sm_{found.major}{found.minor}" if torch.version.hip is None else found.gcnArchName
    return Target(arch.partition(":")[0], found.multi_processor_count)


def overlaps(target: Target) -> bool:
    """Whether a launch may begin before the one ahead of it ends: NVIDIA's, from Hopper on."""
    number = target.arch.removeprefix("sm_")
    return number.isdecimal() and int(number) >= 90 and not INTERPRETED


def prefill_tile(target: Target, head_size: int, itemsize: int) -> Tile:
    """For queries of several tokens."""
    return _tile(_PREFILL, target, head_size, itemsize)


def shared_tile(target: Target, head_size: int, itemsize: int) -> Tile:
    """For queries of one token that share keys: as prompts, in tiles of 64 rows at most, for there
    are few programs; in float32 what does not spill."""
    if itemsize == 4:
        return _SHARED_FLOAT.get(_row(target), Tile(16, 16, 4, 2))
    tile = prefill_tile(target, head_size, itemsize)
    return replace(tile, rows=min(tile.rows, 64))


@dataclass(frozen=True)
class ProductTile:
    """How the product of one row is cut."""

    outputs: int  # rows of the weight that a program takes
    inputs: int  # of each at a time
    warps: int


def product_tile(target: Target, num_inputs: int, normed: bool) -> ProductTile:
    """For linear layers of one row; measured on an H200.  A norm costs each program the whole row:
    long rows want programs that do more."""
    most = 1 << max(0, num_inputs - 1).bit_length()
    if target.num_units < 16:  # the interpreter's: every program costs it the same
        return ProductTile(64, min(1024, most), 4)
    if normed:
        return ProductTile(4, 2048, 4) if num_inputs > 2048 else ProductTile(4, min(512, most), 2)
    if num_inputs % 2048 == 0:
        return ProductTile(2, 2048, 4)
    return ProductTile(2, 1024, 4) if num_inputs > 1024 else ProductTile(4, min(1024, most), 4)


def fits(target: Target, head_size: int, itemsize: int) -> bool:
    """Whether attention over such heads stays in registers there."""
    tables = (table.get(_row(target), table[""]) for table in (_PREFILL, _DECODE))
    return all(tiles.of(head_size, itemsize) is not None for tiles in tables)


def _tile(table: dict[str, Tiles], target: Target, head_size: int, itemsize: int) -> Tile:
    """That of the architecture, or of one like it, else what any takes."""
    found = table.get(_row(target), table[""]).of(head_size, itemsize)
    return found or Tile(16, 16, 8, 1)


def _row(target: Target) -> str:
    return _ALIKE.get(target.arch, target.arch)


_CUT_ON_HOPPER = ((1.0, 4, 8), (3.5, 5, 4), (4.0, 4, 2), (7.0, 5, 2), (float("inf"), 5, 1))
"""Up to so many sequences a multiprocessor: stages, and programs that share a sequence's keys."""


def decode_cut(
    target: Target, head_size: int, itemsize: int, group: int, sequences: int
) -> tuple[Tile, int]:
    """For queries of one token: the tile, ``rows`` the least the matrix unit takes, and how many
    programs share one sequence's keys, so that a small batch fills the chip.  group: heads that
    share keys; sequences: rows times key heads.  Few different answers, for each is a kernel to
    compile."""
    units = target.num_units
    small = itemsize == 2 and head_size <= 128 and group <= 16
    if _row(target) == "sm_90" and small and 8 * sequences > units:
        found = next(cut for cut in _CUT_ON_HOPPER if sequences <= cut[0] * units)
        return Tile(16, 32, 1, found[1]), found[2]
    wanted = 3 * units // max(1, sequences)
    splits = 1 if wanted < 2 else 2 if wanted < 3 else 4 if wanted < 24 else 16
    return _tile(_DECODE, target, head_size, itemsize), splits


def ordered(target: Target, rows: int, kv_heads: int) -> bool:
    """Whether there are more programs than run at once, so that long rows had better come first:
    5% on an H200 from 130 rows of 8 key heads on, nothing for 77."""
    return rows * kv_heads > 6 * target.num_units


SHARES = 8
"""Programs that take the keys which rows share, for each few rows and key head."""
