"""What a torch platform hands over: its device, attention and ops.  Nothing else differs."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy.typing as npt
import torch
from torch import Tensor

from pagoda_torch.attention import AttentionBackend


class Download(Protocol):
    """Arrays on their way to the host."""

    def wait(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays, once the work that makes them is done; raises what the work raised."""
        ...


class TorchDevice(Protocol):
    """One device: memory, copies, and how its work is started and awaited."""

    device: torch.device
    overlaps: bool  # the host runs ahead of the device, so that reading a value costs a wait

    def memory(self) -> tuple[int, int]:
        """Bytes this process may still take, and all there are."""
        ...

    def peak_bytes(self, work: Callable[[], None]) -> int | None:
        """Run ``work`` and say how much memory it took at its peak, beyond what was held before;
        None: this device cannot tell, and nothing was run."""
        ...

    def upload(self, array: npt.NDArray[Any]) -> Tensor:
        """The array on the device, without waiting for it; where host memory is the device's it
        may be a view, so the array is not written to afterwards."""
        ...

    def launch(self, work: Callable[[], Mapping[str, Tensor]]) -> Download:
        """Run ``work`` after all that was launched before; without waiting for it where steps
        overlap.  The tensors it returns come down when asked for."""
        ...

    def close(self) -> None:
        """Release what the device object holds; may be called twice."""
        ...


class GraphCapture(Protocol):
    """Records device work, to be run again for the price of one launch."""

    def record(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """Run ``work`` once, for what compiles at first use, then record it.

        Returns what replays it, and the tensor it returned, overwritten by each replay; other
        memory that it made is shared with the other recordings.  ``work`` may be called several
        times and must not wait for the device."""
        ...


@dataclass(frozen=True)
class TorchFamily:
    """A platform as the torch runner sees it."""

    device: TorchDevice
    attention: Sequence[AttentionBackend]  # the first that does not refuse a layer serves it
    ops: Mapping[str, Callable[..., Any]] = field(default_factory=dict)  # by names in ``ops.Ops``
    default_block_size: int = 16
    graphs: GraphCapture | None = None  # decode steps are recorded where there is one
    most_cache_bytes: int | None = None  # unless the user says how much
    kv_dtypes: Sequence[str] = ()  # of the cache, beside the model's; every backend has them all
    quantizations: Sequence[str] = ()  # of weights, done by ``ops.prepare_linear``
    prepares_parts: bool = False
    """``ops.prepare_linear`` and ``prepare_head`` also take a list: parts stacked along the
    outputs, in any plain dtype, views of the file."""
    prepared_bytes: Callable[[int, int], int] = operator.mul
    """What a linear layer's weights take once prepared, of their number and bytes each."""
    loaded: Callable[[], None] = lambda: None
    """Called once all weights lie where they will stay."""
    compile_ahead: Callable[[Callable[[], None]], Callable[[], None]] = lambda steps: _nothing
    """Runs steps for the kernels that they need alone, and has those compiled meanwhile; returns
    what waits for them.  Where nothing is compiled, nothing is run."""


def _nothing() -> None:
    pass
