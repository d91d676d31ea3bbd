"""The host's memory in a GPU's place: steps overlap in name, recorded work is run again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

MEMORY_BYTES = 8 << 30
"""What the device says it has: none of it is asked for before a test needs it."""


@dataclass(frozen=True)
class Ready:
    """A finished step's arrays."""

    arrays: dict[str, npt.NDArray[Any]]

    def wait(self) -> dict[str, npt.NDArray[Any]]:
        return self.arrays


class InterpretedDevice:
    """Implements ``pagoda_torch.family``'s TorchDevice and GraphCapture."""

    device = torch.device("cpu")
    overlaps = True

    def memory(self) -> tuple[int, int]:
        return MEMORY_BYTES, MEMORY_BYTES

    def peak_bytes(self, work: Callable[[], None]) -> None:
        return None

    def upload(self, array: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(array.copy())

    def launch(self, work: Callable[[], Mapping[str, Tensor]]) -> Ready:
        return Ready({name: tensor.clone().numpy() for name, tensor in work().items()})

    def close(self) -> None:
        """Tensors free themselves."""

    def record(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        output = work()

        def replay() -> None:
            output.copy_(work())

        return replay, output
