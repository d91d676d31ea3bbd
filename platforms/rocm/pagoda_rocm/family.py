"""An AMD GPU as the torch runner sees it; torch calls HIP's streams, events and graphs CUDA's."""

from __future__ import annotations

import torch

from pagoda.platform import Unavailable
from pagoda_rocm import arch
from pagoda_torch.family import TorchFamily
from pagoda_torch.gather_attention import GatherAttention
from pagoda_torch.gpu.device import GpuDevice
from pagoda_torch.gpu.graphs import CudaGraphs
from pagoda_torch.triton.attention import TritonAttention
from pagoda_torch.triton.ops import OPS


def make_family(index: int) -> TorchFamily:
    """Of torch's GPU ``index``.  Raises Unavailable where that is none that we support, which the
    probe cannot know of GPUs that differ: the driver may count them in another order."""
    found = torch.cuda.get_device_properties(index).gcnArchName
    if why := arch.problem(found):
        raise Unavailable(f"rocm:{index} cannot be used: {why}", "HIP_VISIBLE_DEVICES")
    device = GpuDevice(torch.device("cuda", index))
    return TorchFamily(
        device=device,
        attention=[TritonAttention(), GatherAttention()],
        ops=OPS,
        graphs=CudaGraphs(device.device),
    )
