"""The hooks of the interpreted device: one device for each architecture, whose tiles it uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
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

if TYPE_CHECKING:
    from pagoda.conformance.profile import Profile

ARCHITECTURES = ("sm_90", "gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1201", "xpu")
NUM_UNITS = 4
"""Of the chip that is played: so few that small batches split keys and larger ones do not."""


@hookimpl
def pagoda_platform() -> PlatformInfo:
    return PlatformInfo(
        name="triton-interpret",
        summary="GPU kernels in Triton's interpreter, for tests",
        contract=CONTRACT,
        priority=-2,
    )


@hookimpl
def pagoda_probe() -> list[DeviceInfo]:
    for package in ("torch", "triton"):
        if find_spec(package) is None:
            raise Unavailable(f"{package} is not installed", f"pip install {package}")
    return [
        DeviceInfo(arch, f"kernels tuned for {arch}, interpreted on a CPU")
        for arch in ARCHITECTURES
    ]


@hookimpl
def pagoda_capabilities(model: ModelInfo | None, devices: Sequence[DeviceInfo]) -> Capabilities:
    return Capabilities(
        limits=StepLimits(max_tokens=1024, max_requests=64, steps_in_flight=2),
        dtypes=("bfloat16", "float16", "float32"),
        features=frozenset(Feature) - {Feature.TENSOR_PARALLEL},
        block_sizes=(16, 32, 64, 128),
    )


@hookimpl
def pagoda_settings(model: ModelInfo, devices: Sequence[DeviceInfo]) -> Mapping[str, object]:
    return {"max_num_batched_tokens": 128, "max_num_seqs": 8}


@hookimpl
def pagoda_create_runner(
    config: RunnerConfig, model: ModelInfo, devices: Sequence[DeviceInfo]
) -> ModelRunner:
    from pagoda_triton_interpret.runner import make_runner

    return make_runner(config, model, devices[0].id if devices else ARCHITECTURES[0])


@hookimpl
def pagoda_diagnose() -> Mapping[str, str]:
    from importlib.metadata import version

    return {"torch": version("torch"), "triton": version("triton")}


@hookimpl
def pagoda_conformance_profile() -> Profile:
    from pagoda_torch.conformance import torch_profile

    return torch_profile()
