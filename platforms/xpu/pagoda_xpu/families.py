"""What the torch runner is given, by the kernels that were chosen.  Nothing takes another's place:
kernels that cannot run here are refused with what is missing."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from typing import Any

import torch

from pagoda.platform import InvalidValue, PagodaError, RunnerConfig, Unavailable
from pagoda_torch.family import TorchDevice, TorchFamily
from pagoda_torch.gather_attention import GatherAttention
from pagoda_xpu.devices import SyclCpuDevice, XpuDevice
from pagoda_xpu.graphs import XpuGraphs
from pagoda_xpu.installed import SYCL_CPU

KERNELS = ("sycl", "triton", "torch")


def make_family(device_id: str, config: RunnerConfig) -> TorchFamily:
    """The device ``device_id`` with the kernels that ``--xpu-kernels`` names."""
    kernels = config.platform_options.get("xpu_kernels") or KERNELS[0]
    if kernels not in KERNELS:
        raise InvalidValue("xpu_kernels", kernels, f"must be one of {', '.join(KERNELS)}")
    on_cpu = device_id == SYCL_CPU
    device: Any = SyclCpuDevice() if on_cpu else XpuDevice(int(device_id))
    most = 1 << 30 if on_cpu else None
    graphs = None
    if config.platform_options.get("xpu_graphs"):
        if on_cpu or not hasattr(torch.xpu, "XPUGraph"):
            raise PagodaError(
                f"xpu:{device_id} with PyTorch {torch.__version__} has no graphs",
                "leave --xpu-graphs out",
            )
        graphs = XpuGraphs(device.device)
    if kernels == "sycl":
        return _sycl_family(device, config, graphs, most)
    if kernels == "triton":
        return _triton_family(device, on_cpu, graphs)
    return TorchFamily(device=device, attention=[GatherAttention()], most_cache_bytes=most)


def _sycl_family(
    device: TorchDevice, config: RunnerConfig, graphs: XpuGraphs | None, most: int | None
) -> TorchFamily:
    from pagoda_kernels_sycl import small
    from pagoda_kernels_sycl.queues import queue_of
    from pagoda_kernels_sycl.runtime import SyclUnavailable, load_shim
    from pagoda_xpu.attention import SyclAttention

    try:  # now, not in the middle of the first step
        load_shim()
        queue_of(device.device)
    except SyclUnavailable as error:
        other = "" if device.device.type == "cpu" else "; or --xpu-kernels triton"
        raise Unavailable(error.what, error.remedy + other) from error
    ops = {op.__name__: op for op in small.OPS}
    return TorchFamily(
        device=device,
        attention=[SyclAttention(config.max_model_len)],
        ops=ops,
        graphs=graphs,
        most_cache_bytes=most,
    )


def _triton_family(device: TorchDevice, on_cpu: bool, graphs: XpuGraphs | None) -> TorchFamily:
    if on_cpu:
        raise Unavailable("xpu_kernels='triton' needs a GPU", "--xpu-kernels sycl")
    for module, missing in (
        ("triton", "Triton is not installed"),
        ("triton.backends.intel", "this Triton has no backend for Intel GPUs"),
    ):
        if find_spec(module) is None:
            raise Unavailable(missing, "PyTorch for XPU's own build of Triton")
    from pagoda_kernels_triton.ahead import compile_ahead
    from pagoda_torch.triton.attention import TritonAttention
    from pagoda_torch.triton.ops import OPS

    return TorchFamily(
        device=device,
        attention=[TritonAttention()],
        ops=OPS,
        graphs=graphs,
        compile_ahead=partial(compile_ahead, device.device),
    )
