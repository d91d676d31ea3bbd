"""One scheduled step as device tensors, made once and shared by all layers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pagoda.platform import PENDING, ScheduledBatch

if TYPE_CHECKING:
    from pagoda_torch.family import TorchDevice


@dataclass
class TorchStep:
    """R requests, T tokens on the device; ``batch`` has the same and more on the host."""

    batch: ScheduledBatch
    block_size: int
    device: TorchDevice
    dtype: torch.dtype  # the model's
    token_ids: Tensor  # [T] int64
    positions: Tensor  # [T] int64
    cache_slots: Tensor  # [T] int64, block * block_size + offset
    plans: dict[str, Any] = field(default_factory=dict)  # one an attention backend, by its name


def make_step(
    batch: ScheduledBatch,
    block_size: int,
    device: TorchDevice,
    dtype: torch.dtype,
    last_tokens: Tensor,
) -> TorchStep:
    """Bring a batch to the device.

    last_tokens [slots] int64 has what every slot sampled last; PENDING tokens come from there,
    on the device, without waiting for the step that samples them."""
    token_ids = device.upload(batch.token_ids.astype(np.int64))
    pending = np.flatnonzero(batch.token_ids == PENDING)
    if len(pending):
        slots = device.upload(batch.slots[batch.rows[pending]].astype(np.int64))
        token_ids.index_copy_(0, device.upload(pending), last_tokens.index_select(0, slots))
    return TorchStep(
        batch=batch,
        block_size=block_size,
        device=device,
        dtype=dtype,
        token_ids=token_ids,
        positions=device.upload(batch.positions.astype(np.int64)),
        cache_slots=device.upload(batch.cache_slots(block_size)),
    )
