"""Intel GPUs, and the CPU in a GPU's place, as torch devices."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from pagoda_torch.gpu.device import GpuDevice

_log = logging.getLogger(__name__)


class XpuDevice(GpuDevice):
    """A GPU; not every driver says how much of its memory is free."""

    def __init__(self, index: int):
        super().__init__(torch.device("xpu", index))
        self._says_free = True

    def memory(self) -> tuple[int, int]:
        if self._says_free:
            try:
                return super().memory()
            except RuntimeError as error:
                self._says_free = False
                _log.warning(
                    "the driver does not say how much of %s's memory is free (%s): taken for free"
                    " is what this process does not hold; --kv-cache-memory says otherwise",
                    *(self.device, error),
                )
        total = int(torch.xpu.get_device_properties(self.device).total_memory)
        return total - int(torch.xpu.memory_allocated(self.device)), total


@dataclass(frozen=True)
class Ready:
    """A finished step's arrays."""

    arrays: dict[str, npt.NDArray[Any]]

    def wait(self) -> dict[str, npt.NDArray[Any]]:
        return self.arrays


class SyclCpuDevice:
    """The CPU where tests want a GPU: torch's tensors are the host's, the kernels are SYCL's."""

    device = torch.device("cpu")
    overlaps = False

    def memory(self) -> tuple[int, int]:
        page = os.sysconf("SC_PAGE_SIZE")
        return os.sysconf("SC_AVPHYS_PAGES") * page, os.sysconf("SC_PHYS_PAGES") * page

    def peak_bytes(self, work: Callable[[], None]) -> None:
        return None

    def upload(self, array: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(array)

    def launch(self, work: Callable[[], Mapping[str, Tensor]]) -> Ready:
        return Ready({name: tensor.clone().numpy() for name, tensor in work().items()})

    def close(self) -> None:
        """Tensors free themselves."""
