"""Zeroed memory for caches; on the host none is taken before something is written there."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

LINE = 64
"""Bytes at whose multiples memory begins."""


def zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """As torch.zeros, which on the host would write every page: seconds for a large cache."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    num_bytes = math.prod(shape) * dtype.itemsize
    memory = np.zeros(num_bytes + LINE, np.uint8)
    start = -memory.ctypes.data % LINE
    return torch.from_numpy(memory[start : start + num_bytes]).view(dtype).view(shape)
