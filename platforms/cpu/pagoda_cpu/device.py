"""The CPU as a torch device: its memory is the host's, and work is done when launch returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from pagoda_cpu import hardware
from pagoda_cpu.threads import Threads


@dataclass(frozen=True)
class Ready:
    """A finished step's arrays."""

    arrays: dict[str, npt.NDArray[Any]]

    def wait(self) -> dict[str, npt.NDArray[Any]]:
        return self.arrays


class CpuDevice:
    """Implements ``pagoda_torch.family.TorchDevice``."""

    device = torch.device("cpu")
    overlaps = False

    def __init__(self, threads: Threads, set_aside: Callable[[], int] = int):
        self.threads = threads
        self.set_aside = set_aside  # bytes that are ours already and in no use

    def memory(self) -> tuple[int, int]:
        total, free = hardware.memory()
        return free + self.set_aside(), total

    def peak_bytes(self, work: Callable[[], None]) -> None:
        return None

    def upload(self, array: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(array)

    def launch(self, work: Callable[[], Mapping[str, Tensor]]) -> Ready:
        self.threads.use()
        return Ready({name: tensor.numpy() for name, tensor in work().items()})

    def close(self) -> None:
        """Tensors free themselves."""
