"""The CUDA platform's hooks.  Nothing heavy is imported before a runner is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pagoda.platform import (
    CONTRACT,
    Capabilities,
    DeviceInfo,
    Feature,
    ModelInfo,
    ModelRunner,
    PlatformInfo,
    RunnerConfig,
    StepLimits,
    hookimpl,
)
from pagoda_cuda import dtypes, installed, nvml

if TYPE_CHECKING:
    from pagoda.conformance.profile import Profile

OLDEST = (7, 5)
"""The first compute capability that PyTorch's builds for CUDA 13 run on."""

SMALL = 1 << 28
"""Layers times the square of their width, about a tenth of the parameters, of small models."""


@hookimpl
def pagoda_platform() -> PlatformInfo:
    return PlatformInfo(name="cuda", summary="NVIDIA GPUs", contract=CONTRACT, priority=200)


@hookimpl
def pagoda_probe() -> list[DeviceInfo]:
    installed.torch_cuda_version()
    return [_describe(index, gpu) for index, gpu in enumerate(nvml.visible_gpus())]


def _describe(index: int, gpu: nvml.Gpu) -> DeviceInfo:
    capability = "{}.{}".format(*gpu.capability)
    problem = ""
    if gpu.capability < OLDEST:
        problem = f"compute capability {capability}, at least {OLDEST[0]}.{OLDEST[1]} is needed"
    details = {"compute capability": capability, "uuid": gpu.uuid}
    return DeviceInfo(str(index), gpu.name, gpu.memory_bytes, problem, details)


@hookimpl
def pagoda_capabilities(model: ModelInfo | None, devices: Sequence[DeviceInfo]) -> Capabilities:
    return Capabilities(
        limits=StepLimits(max_tokens=32768, max_requests=1024, steps_in_flight=2),
        dtypes=dtypes.computed(devices),
        kv_dtypes=dtypes.cached(devices),
        features=frozenset(Feature) - {Feature.TENSOR_PARALLEL},
        block_sizes=(16, 32, 64, 128),
    )


@hookimpl
def pagoda_settings(model: ModelInfo, devices: Sequence[DeviceInfo]) -> Mapping[str, object]:
    # Prompts of small models run faster than the host can launch small steps.
    small = model.num_layers * (model.num_heads * model.head_dim) ** 2 < SMALL
    return {"max_num_batched_tokens": 16384 if small else 8192, "max_num_seqs": 256}


@hookimpl
def pagoda_create_runner(
    config: RunnerConfig, model: ModelInfo, devices: Sequence[DeviceInfo]
) -> ModelRunner:
    from functools import partial

    import torch

    from pagoda_cuda.kernels import kernels_for
    from pagoda_kernels_triton.ahead import compile_ahead
    from pagoda_torch.family import TorchFamily
    from pagoda_torch.gather_attention import GatherAttention
    from pagoda_torch.gpu.device import GpuDevice
    from pagoda_torch.gpu.graphs import CudaGraphs
    from pagoda_torch.runner import TorchRunner

    device = GpuDevice(torch.device("cuda", int(devices[0].id) if devices else 0))
    graphs = CudaGraphs(device.device)
    attention, ops = kernels_for(torch.cuda.get_device_capability(device.device), graphs)
    fp8 = config.kv_cache_dtype in dtypes.FP8  # PyTorch's own operations take none
    family = TorchFamily(
        device=device,
        attention=[attention] if fp8 else [attention, GatherAttention()],
        ops=ops,
        graphs=graphs,
        kv_dtypes=dtypes.FP8,
        compile_ahead=partial(compile_ahead, device.device),
    )
    return TorchRunner(config, model, family)


@hookimpl
def pagoda_diagnose() -> Mapping[str, str]:
    from importlib.metadata import version

    return {
        "torch": version("torch"),
        "triton": version("triton"),
        "cuda": installed.torch_cuda_version(),
        "driver": nvml.driver_version(),
    }


@hookimpl
def pagoda_conformance_profile() -> Profile:
    from pagoda_torch.conformance import torch_profile

    return torch_profile(tolerances=dtypes.ROUNDING)
