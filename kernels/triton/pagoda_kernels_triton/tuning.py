"""Tile sizes by architecture: measured on an H200 for compute capability 9, elsewhere what compiles
without spilling.

One table instead of autotuning: start-up stays short and the same input gives the same bits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch


@dataclass(frozen=True)
class Tile:
    """How one kernel is cut and scheduled."""

    rows: int  # query rows of a program: tokens times the heads that share keys
    keys: int  # keys taken at a time
    warps: int
    stages: int


@dataclass(frozen=True)
class Target:
    """What the tables go by."""

    kind: str  # "cuda", "hip", "xpu", or "cpu" under the interpreter
    generation: int  # compute capability major for cuda; 0 elsewhere
    num_units: int  # multiprocessors


@cache
def target_of(device: torch.device) -> Target:
    """The target behind a torch device."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        kind = "cuda" if torch.version.hip is None else "hip"
        major = properties.major if kind == "cuda" else 0
        return Target(kind, major, properties.multi_processor_count)
    if device.type == "xpu":
        return Target("xpu", 0, torch.xpu.get_device_properties(device).max_compute_units)
    return Target(device.type, 0, 1)


def prefill_tile(target: Target, head_size: int, itemsize: int) -> Tile:
    """For queries of several tokens."""
    if itemsize == 4:
        return Tile(32, 32, 4, 1) if head_size > 128 else Tile(64, 32, 4, 1)
    if target.kind == "cuda" and target.generation >= 9:
        return Tile(128, 64, 8, 2) if head_size > 128 else Tile(128, 64, 4, 3)
    return Tile(64, 32, 4, 1) if target.kind == "hip" or head_size > 128 else Tile(64, 64, 4, 2)


def decode_tile(target: Target, head_size: int, itemsize: int) -> Tile:
    """For queries of one token; ``rows`` is the least the matrix unit takes."""
    if itemsize == 4 or head_size > 128:
        return Tile(16, 32, 4, 1 if target.kind == "hip" else 2)
    if target.kind == "cuda" and target.generation >= 9:
        return Tile(16, 64, 4, 3)
    return Tile(16, 32, 4, 1) if target.kind == "hip" else Tile(16, 64, 4, 2)


def num_splits(target: Target, rows: int, kv_heads: int) -> int:
    """How many programs share one sequence's keys, so that a small batch fills the chip.  Few
    different answers, for each is a kernel to compile."""
    wanted = 3 * target.num_units // max(1, rows * kv_heads)
    return 1 if wanted < 2 else 4 if wanted < 8 else 16 if wanted < 32 else 64
