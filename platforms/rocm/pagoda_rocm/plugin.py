"""The ROCm platform's hooks.  Nothing heavy is imported before a runner is asked for."""

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
    Unavailable,
    hookimpl,
)
from pagoda_rocm import arch, gpus, installed, smi

if TYPE_CHECKING:
    from pagoda.conformance.profile import Profile


@hookimpl
def pagoda_platform() -> PlatformInfo:
    return PlatformInfo(name="rocm", summary="AMD GPUs", contract=CONTRACT, priority=190)


@hookimpl
def pagoda_probe() -> list[DeviceInfo]:
    installed.torch_hip_version()
    return [_describe(index, gpu) for index, gpu in enumerate(gpus.list_gpus())]


def _describe(index: int, gpu: smi.Gpu) -> DeviceInfo:
    details = {"architecture": arch.plain(gpu.arch) or "unknown", "fp8": arch.fp8(gpu.arch)}
    if gpu.uuid:
        details["uuid"] = gpu.uuid
    problem = gpu.trouble or arch.problem(gpu.arch)
    return DeviceInfo(str(index), gpu.name, gpu.memory_bytes, problem, details)


@hookimpl
def pagoda_capabilities(model: ModelInfo | None, devices: Sequence[DeviceInfo]) -> Capabilities:
    return Capabilities(
        limits=StepLimits(max_tokens=32768, max_requests=1024, steps_in_flight=2),
        dtypes=("bfloat16", "float16", "float32"),
        features=frozenset(Feature) - {Feature.TENSOR_PARALLEL},
        block_sizes=(16, 32, 64, 128),
    )


@hookimpl
def pagoda_settings(model: ModelInfo, devices: Sequence[DeviceInfo]) -> Mapping[str, object]:
    return {"max_num_batched_tokens": 8192, "max_num_seqs": 256}


@hookimpl
def pagoda_create_runner(
    config: RunnerConfig, model: ModelInfo, devices: Sequence[DeviceInfo]
) -> ModelRunner:
    from pagoda_rocm.family import make_family
    from pagoda_torch.runner import TorchRunner

    family = make_family(int(devices[0].id) if devices else 0, config.dtype)
    return TorchRunner(config, model, family)


@hookimpl
def pagoda_diagnose() -> Mapping[str, str]:
    from importlib.metadata import version

    try:
        driver = smi.driver_version()
    except Unavailable as error:
        driver = error.what
    return {
        "torch": version("torch"),
        "triton": _triton_version(),
        "hip": installed.torch_hip_version(),
        "driver": driver,
    }


def _triton_version() -> str:
    """PyTorch's builds for ROCm bring Triton under a name of their own."""
    from importlib.metadata import PackageNotFoundError, version

    for name in ("pytorch-triton-rocm", "triton-rocm", "triton"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "unknown"


@hookimpl
def pagoda_conformance_profile() -> Profile:
    from pagoda_torch.conformance import torch_profile

    return torch_profile()
