"""What a torch platform hands over: its device, attention and ops.  Nothing else differs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from pagoda.platform import StepHandle, StepResult
from torch import Tensor

from pagoda_torch.attention import AttentionBackend


class TorchDevice(Protocol):
    """One device: memory, copies, and how its work is started and awaited."""

    device: torch.device

    def memory(self) -> tuple[int, int]:
        """Free and total bytes, for this process."""
        ...

    def peak_bytes(self, reset: bool = False) -> int | None:
        """The most bytes of tensors ever held, or since ``reset``; None: not counted here."""
        ...

    def upload(self, array: npt.NDArray[Any]) -> Tensor:
        """A copy, or a view where host memory is the device's; does not wait for the device."""
        ...

    def launch(self, work: Callable[[], DeviceResult]) -> StepHandle:
        """Start ``work``, in order after all that was launched before, and return at once when
        steps overlap; the handle downloads its result when asked."""
        ...

    def synchronize(self) -> None:
        """Wait until everything launched is done."""
        ...

    def close(self) -> None:
        """Release what the device object holds; may be called twice."""
        ...


@dataclass(frozen=True)
class DeviceResult:
    """A step's outcome still on the device."""

    tensors: tuple[Tensor, ...]
    build: Callable[[tuple[npt.NDArray[np.generic], ...]], StepResult]
    """Makes the StepResult from the same tensors as host arrays."""


@dataclass(frozen=True)
class TorchFamily:
    """A platform as the torch runner sees it."""

    device: TorchDevice
    attention: Sequence[AttentionBackend]  # the first that does not refuse a layer serves it
    ops: Mapping[str, Callable[..., Any]] = field(default_factory=dict)  # names of ``ops.Ops``
    default_block_size: int = 16
