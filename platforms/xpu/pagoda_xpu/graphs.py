"""XPU graphs that share one pool of memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class XpuGraphs:
    """Implements ``pagoda_torch.family.GraphCapture``."""

    def __init__(self, device: torch.device):
        self.stream = torch.xpu.Stream(device)  # type: ignore[no-untyped-call]
        self.pool = torch.xpu.graph_pool_handle()

    def record(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        current = torch.xpu.current_stream()
        self.stream.wait_stream(current)
        graph = torch.xpu.XPUGraph()
        with torch.xpu.stream(self.stream):
            work()
            self.stream.synchronize()
            graph.capture_begin(pool=self.pool)
            try:
                output = work()
            finally:
                graph.capture_end()
        current.wait_stream(self.stream)
        return graph.replay, output
