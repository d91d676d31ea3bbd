"""The CPU platform's hooks.  Nothing heavy is imported before a runner is asked for."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pagoda.platform import (
    CONTRACT,
    Capabilities,
    DeviceInfo,
    Feature,
    InvalidValue,
    ModelInfo,
    ModelRunner,
    PlatformInfo,
    RunnerConfig,
    StepLimits,
    Unavailable,
    hookimpl,
)
from pagoda_cpu import hardware
from pagoda_cpu.provision import provide

if TYPE_CHECKING:
    from pagoda.conformance.profile import Profile

QUANTIZATIONS = ("int8", "int4")
ROUNDING = {"int8": 0.8, "int4": 8.0}
"""The kit's tiny random models are no guide to what rounding costs: tests/test_quantized.py is."""
KV_DTYPES = ("float32", "bfloat16", "float16", "int8")


@hookimpl
def pagoda_platform() -> PlatformInfo:
    return PlatformInfo(name="cpu", summary="CPUs, through PyTorch", contract=CONTRACT, priority=10)


@hookimpl
def pagoda_probe() -> list[DeviceInfo]:
    from importlib.util import find_spec

    if find_spec("torch") is None:
        raise Unavailable("PyTorch is not installed", "pip install 'pagoda-llm[cpu]'")
    if find_spec("pagoda_kernels_cpu") is None:
        raise Unavailable("its kernels are not installed", "pip install pagoda-kernels-cpu")
    try:
        from pagoda_kernels_cpu import LEVEL
    except (RuntimeError, ValueError) as error:  # "PAGODA_CPU_ISA='x': why"
        asked, why = os.environ.get("PAGODA_CPU_ISA"), str(error).partition(": ")[2]
        raise InvalidValue("PAGODA_CPU_ISA", asked, f"{why}. Try: unset it") from error
    total, _ = hardware.memory()
    isa = " ".join(hardware.isa_flags()) or "unknown"
    details = {"kernels": LEVEL, "cores": str(hardware.num_cores()), "isa": isa}
    return [DeviceInfo("0", hardware.cpu_name(), memory_bytes=total, details=details)]


@hookimpl
def pagoda_capabilities(model: ModelInfo | None, devices: Sequence[DeviceInfo]) -> Capabilities:
    fast = hardware.has_bfloat16()
    return Capabilities(
        limits=StepLimits(max_tokens=8192, max_requests=512),
        dtypes=("bfloat16", "float32", "float16") if fast else ("float32", "bfloat16", "float16"),
        quantizations=QUANTIZATIONS,
        kv_dtypes=("auto", *KV_DTYPES),
        features=frozenset(Feature) - {Feature.TENSOR_PARALLEL},
    )


@hookimpl
def pagoda_settings(model: ModelInfo, devices: Sequence[DeviceInfo]) -> Mapping[str, object]:
    return {"max_num_batched_tokens": 512, "max_num_seqs": 128}


@hookimpl
def pagoda_create_runner(
    config: RunnerConfig, model: ModelInfo, devices: Sequence[DeviceInfo]
) -> ModelRunner:
    provision = provide(config, model)  # before torch, whose import takes a while
    from pagoda_cpu.runner import cpu_runner

    return cpu_runner(config, model, provision)


@hookimpl
def pagoda_add_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--cpu-threads",
        type=int,
        metavar="N",
        help="threads to compute with (default: OMP_NUM_THREADS, else one for each usable core)",
    )
    group.add_argument(
        "--cpu-attention",
        choices=("native", "gather"),
        help="native: Pagoda's C++ kernels (the default); gather: PyTorch's own operations",
    )


@hookimpl
def pagoda_diagnose() -> Mapping[str, str]:
    from importlib.metadata import version

    total, free = hardware.memory()
    return {
        "torch": version("torch"),
        "cpu": hardware.cpu_name(),
        "isa": " ".join(hardware.isa_flags()),
        "threads": str(hardware.num_threads(None)),
        "memory": f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free",
    }


@hookimpl
def pagoda_conformance_profile() -> Profile:
    from pagoda_torch.conformance import torch_profile

    return torch_profile(tolerances=ROUNDING)
