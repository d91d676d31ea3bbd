"""A GPU as a torch device: pinned copies both ways, and results that are awaited by an event.

The vendor is the device's type: everything goes through ``torch.get_device_module``."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Arriving:
    """A step's arrays on their way to pinned host memory."""

    arrays: dict[str, Tensor]
    copied: Any  # the vendor's Event

    def wait(self) -> dict[str, npt.NDArray[Any]]:
        self.copied.synchronize()
        return {name: tensor.numpy() for name, tensor in self.arrays.items()}


class GpuDevice:
    """Implements ``pagoda_torch.family.TorchDevice``; all its work is on one stream."""

    overlaps = True

    def __init__(self, device: torch.device):
        self.device = device
        self.api: Any = torch.get_device_module(device)
        self.api.set_device(device)
        self._says_free = True

    def memory(self) -> tuple[int, int]:
        if self._says_free:
            try:
                free, total = self.api.mem_get_info(self.device)
                held = self.api.memory_reserved(self.device)
                return free + held - self.api.memory_allocated(self.device), total
            except RuntimeError as error:  # drivers of GPUs that share the host's memory, mostly
                self._says_free = False
                _log.warning(
                    "the driver does not say how much of %s's memory is free (%s): taken for free"
                    " is what this process does not hold; --kv-cache-memory says otherwise",
                    *(self.device, error),
                )
        total = int(self.api.get_device_properties(self.device).total_memory)
        return total - int(self.api.memory_allocated(self.device)), total

    def peak_bytes(self, work: Callable[[], None]) -> int:
        self._release()
        before: int = self.api.memory_allocated(self.device)
        self.api.reset_peak_memory_stats(self.device)
        work()
        peak: int = self.api.max_memory_reserved(self.device)  # with what fragments
        self._release()
        return max(0, peak - before)

    def upload(self, array: npt.NDArray[Any]) -> Tensor:
        host = torch.from_numpy(array)
        if not array.size:
            return host.to(self.device)
        return host.pin_memory().to(self.device, non_blocking=True)

    def launch(self, work: Callable[[], Mapping[str, Tensor]]) -> Arriving:
        arrays = {name: _download(tensor) for name, tensor in work().items()}
        copied = self.api.Event()
        copied.record()
        return Arriving(arrays, copied)

    def close(self) -> None:
        self._release()

    def _release(self) -> None:
        """Give back what no tensor holds any more."""
        self.api.synchronize(self.device)
        gc.collect()
        self.api.empty_cache()


def _download(tensor: Tensor) -> Tensor:
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)
