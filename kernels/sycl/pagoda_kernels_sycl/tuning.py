"""Sizes of work by kind of device.  None was measured on a GPU yet."""

from __future__ import annotations

import torch

PART_KEYS = 512
"""Keys of a row that one sub-group looks at, where queries are short."""

PROMPT_ROWS = 32
"""Query rows of a work-group's tile, about."""


def lanes_of(device: torch.device) -> int:
    """Work-items of a sub-group: 16 is what every Intel GPU from DG2 on has, 8 fills a register of
    a CPU with AVX2."""
    return 8 if device.type == "cpu" else 16


def rows_of(device: torch.device, head_size: int) -> int:
    """Query rows of a sub-group: as many as Intel's GPU compiler keeps in the registers of PVC and
    DG2 (the README has what it said)."""
    return 4 if head_size <= 64 and device.type != "cpu" else 2
