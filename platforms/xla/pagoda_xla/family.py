"""What an XLA platform hands over: its runtime, kernels and buckets.  Nothing else differs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy.typing as npt
import torch
from torch import Tensor

from pagoda_xla.attention import Kernel
from pagoda_xla.buckets import BucketRule


class Runtime(Protocol):
    """All that the runner asks of a lazy-graph runtime; torch-xla's is ``torch_xla_runtime``."""

    device: torch.device
    num_devices: int  # that share one model

    def memory(self) -> tuple[int, int]:
        """Bytes free and in all, of one device."""
        ...

    def upload(self, array: npt.NDArray[Any]) -> Tensor:
        """The array on the device, on all of them where there are several."""
        ...

    def shard(self, tensor: Tensor, axis: int | None) -> Tensor:
        """A host tensor on the device: cut along ``axis`` among the devices, or whole on each."""
        ...

    def whole(self, tensor: Tensor) -> Tensor:
        """A result of the graph being traced, whole on every device, so that the graphs that take
        it always find it alike."""
        ...

    def filled(
        self,
        shape: Sequence[int],
        dtype: torch.dtype,
        value: float,
        axis: int | None = None,
    ) -> Tensor:
        """A tensor made on the device, cut along ``axis``; updates in place keep its memory."""
        ...

    def compile(
        self, name: str, function: Callable[..., Any], most_graphs: int
    ) -> Callable[..., Any]:
        """``function`` as a graph by the shapes of its arguments: started, not waited for.

        Tensors that it updates in place are updated in place on the device.  Raises OutOfMemory
        with the compiler's message where a graph does not fit, PagodaError for a graph beyond
        ``most_graphs``."""
        ...

    def download(self, tensors: Mapping[str, Tensor]) -> dict[str, npt.NDArray[Any]]:
        """The tensors in host memory, once what makes them is done."""
        ...

    def num_compiles(self) -> int:
        """Graphs that this process has compiled so far."""
        ...


@dataclass(frozen=True)
class XlaFamily:
    """A platform as the XLA runner sees it."""

    runtime: Runtime
    kernels: Sequence[Kernel]  # the first that does not refuse a layer serves it
    rule: BucketRule
    default_block_size: int
    most_cache_bytes: int | None = None  # unless the user says how much
