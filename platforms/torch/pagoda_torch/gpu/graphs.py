"""CUDA graphs, which on ROCm are HIP graphs by the same name, that share one pool of memory."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """One a process: cuBLAS keeps 32 MB of work space for every stream it has seen."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


class CudaGraphs:
    """Implements ``pagoda_torch.family.GraphCapture``."""

    def __init__(self, device: torch.device):
        self.stream = _side_stream(device)
        self.pool = torch.cuda.graph_pool_handle()
        self.living: weakref.WeakSet[torch.cuda.CUDAGraph] = weakref.WeakSet()
        self.recording = False  # what is launched now is launched to be replayed

    def record(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        current = torch.cuda.current_stream()
        self.stream.wait_stream(current)
        graph = torch.cuda.CUDAGraph()
        if not self.living:  # a pool goes with the last that used it
            self.pool = torch.cuda.graph_pool_handle()
        self.recording = True
        try:
            with torch.cuda.stream(self.stream):
                work()
                self.stream.synchronize()
                graph.capture_begin(pool=self.pool, capture_error_mode="thread_local")
                try:
                    output = work()
                finally:
                    graph.capture_end()
        finally:
            self.recording = False
        self.living.add(graph)
        current.wait_stream(self.stream)
        return graph.replay, output
