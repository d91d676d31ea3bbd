"""An AMD GPU as the torch runner sees it; torch calls HIP's streams, events and graphs CUDA's."""

from __future__ import annotations

import logging
from functools import partial

import torch

from pagoda.platform import Unavailable
from pagoda_kernels_triton import tuning
from pagoda_kernels_triton.ahead import compile_ahead
from pagoda_rocm import arch
from pagoda_torch.attention import AttentionSpec
from pagoda_torch.family import TorchFamily
from pagoda_torch.gather_attention import GatherAttention
from pagoda_torch.gpu.device import GpuDevice
from pagoda_torch.gpu.graphs import CudaGraphs
from pagoda_torch.triton.attention import TritonAttention
from pagoda_torch.triton.ops import OPS

_log = logging.getLogger(__name__)


class RocmAttention(TritonAttention):
    """Leaves to others what would run from memory instead of registers: RDNA has few of them."""

    def __init__(self, device: torch.device, dtype: str):
        self.target = tuning.target_of(device)
        self.dtype, self.itemsize = dtype, 4 if dtype == "float32" else 2
        self._warned: set[int] = set()

    def refuses(self, layer: AttentionSpec) -> str | None:
        size = layer.head_size
        if tuning.fits(self.target, size, self.itemsize):
            return super().refuses(layer)
        reason = f"heads of {size} in {self.dtype} do not fit {self.target.arch}'s registers"
        if size not in self._warned:
            self._warned.add(size)
            _log.warning("%s: attention in plain PyTorch, slower and without graphs", reason)
        return reason


def make_family(index: int, dtype: str) -> TorchFamily:
    """Of torch's GPU ``index``.  Raises Unavailable where that is none that we support, which the
    probe cannot know of GPUs that differ: the driver may count them in another order."""
    found = torch.cuda.get_device_properties(index).gcnArchName
    if why := arch.problem(found):
        raise Unavailable(f"rocm:{index} cannot be used: {why}", "HIP_VISIBLE_DEVICES")
    device = GpuDevice(torch.device("cuda", index))
    return TorchFamily(
        device=device,
        attention=[RocmAttention(device.device, dtype), GatherAttention()],
        ops=OPS,
        graphs=CudaGraphs(device.device),
        compile_ahead=partial(compile_ahead, device.device),
    )
