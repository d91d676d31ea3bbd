"""The XPU platform's hooks.  Nothing heavy is imported before a runner is asked for, but for the
probe, which asks PyTorch where it was built for XPU."""

from __future__ import annotations

import argparse
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
from pagoda_xpu import gpus, installed

if TYPE_CHECKING:
    from pagoda.conformance.profile import Profile


@hookimpl
def pagoda_platform() -> PlatformInfo:
    # The CPU in a GPU's place is for tests: never what ``auto`` means.
    priority = 5 if installed.offers_sycl_cpu() else 150
    return PlatformInfo(name="xpu", summary="Intel GPUs", contract=CONTRACT, priority=priority)


@hookimpl
def pagoda_probe() -> list[DeviceInfo]:
    if not installed.offers_sycl_cpu():
        return gpus.list_gpus()
    cpu = DeviceInfo(
        installed.SYCL_CPU, f"{_cpu_name()}, by way of SYCL and OpenCL", details={"bfloat16": "yes"}
    )
    try:
        return [*gpus.list_gpus(), cpu]
    except Unavailable:
        return [cpu]


def _cpu_name() -> str:
    from pagoda_kernels_sycl.queues import cpu_queue, describe
    from pagoda_kernels_sycl.runtime import SyclUnavailable

    try:
        return describe(cpu_queue())["name"]
    except SyclUnavailable as error:
        raise Unavailable(error.what, error.remedy) from error


@hookimpl
def pagoda_capabilities(model: ModelInfo | None, devices: Sequence[DeviceInfo]) -> Capabilities:
    bfloat16 = all(device.details.get("bfloat16") != "no" for device in devices)
    return Capabilities(
        limits=StepLimits(max_tokens=32768, max_requests=1024, steps_in_flight=2),
        dtypes=("bfloat16", "float16", "float32") if bfloat16 else ("float16", "float32"),
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
    from pagoda_torch.runner import TorchRunner
    from pagoda_xpu.families import make_family

    return TorchRunner(config, model, make_family(devices[0].id if devices else "0", config))


@hookimpl
def pagoda_add_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--xpu-kernels",
        choices=("sycl", "triton", "torch"),
        help="attention and fused operations: sycl (the default; compiled when first used), triton"
        " (PyTorch for XPU's build of Triton), torch (plain)",
    )
    group.add_argument(
        "--xpu-graphs", action="store_true", help="record decode steps as XPU graphs (never tried)"
    )


@hookimpl
def pagoda_diagnose() -> Mapping[str, str]:
    from pagoda_xpu.diagnosis import diagnosis

    return diagnosis()


@hookimpl
def pagoda_conformance_profile() -> Profile:
    from pagoda_torch.conformance import torch_profile

    return torch_profile()
