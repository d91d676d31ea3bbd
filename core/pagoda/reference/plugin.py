"""The NumPy platform: runs anywhere, slowly, in float32; the others are checked by it."""

from __future__ import annotations

import os
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

if TYPE_CHECKING:
    from pagoda.conformance.profile import Profile


@hookimpl
def pagoda_platform() -> PlatformInfo:
    return PlatformInfo(
        name="reference",
        summary="NumPy in float32: slow, for checking other platforms",
        contract=CONTRACT,
        priority=0,
    )


@hookimpl
def pagoda_probe() -> list[DeviceInfo]:
    return [DeviceInfo(id="0", name="NumPy", memory_bytes=_memory_bytes())]


@hookimpl
def pagoda_capabilities(model: ModelInfo | None, devices: Sequence[DeviceInfo]) -> Capabilities:
    return Capabilities(
        limits=StepLimits(max_tokens=8192, max_requests=256, steps_in_flight=2),
        dtypes=("float32",),
        features=frozenset(Feature) - {Feature.TENSOR_PARALLEL},
    )


@hookimpl
def pagoda_create_runner(
    config: RunnerConfig, model: ModelInfo, devices: Sequence[DeviceInfo]
) -> ModelRunner:
    from pagoda.reference.runner import ReferenceRunner

    return ReferenceRunner(config, model)


@hookimpl
def pagoda_diagnose() -> Mapping[str, str]:
    import numpy

    return {"numpy": numpy.__version__}


@hookimpl
def pagoda_conformance_profile() -> Profile:
    from pagoda.conformance.profile import Profile
    from pagoda.reference.runner import poison_cache

    return Profile(poison_cache=poison_cache)


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not every system says
        return 0
