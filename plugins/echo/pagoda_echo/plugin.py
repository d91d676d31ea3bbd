"""The hooks: who this platform is, what it finds here, what it can do.  Start reading here.

The core imports this module whenever it lists platforms, so the runner is imported late."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pagoda.platform import (
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

BLOCK_SIZE = 32  # tokens a cache block: the one size this platform's cache is cut into


@hookimpl
def pagoda_platform() -> PlatformInfo:
    return PlatformInfo(
        name="echo",
        summary="an example of a backend: Llama in NumPy on a cache of its own",
        contract=(1, 0),  # the version this plugin was written for, not the core's newest
        priority=-1,  # an example is never what --device auto means
    )


@hookimpl
def pagoda_probe() -> list[DeviceInfo]:
    # A platform with hardware behind it looks for it here, and raises Unavailable when its
    # runtime is missing.  NumPy is always there.
    return [DeviceInfo(id="0", name="NumPy, one block at a time")]


@hookimpl
def pagoda_capabilities(model: ModelInfo | None, devices: Sequence[DeviceInfo]) -> Capabilities:
    return Capabilities(
        limits=StepLimits(max_tokens=512, max_requests=32),
        dtypes=("float32",),
        block_sizes=(BLOCK_SIZE,),
        # The reference sampler brings these.  Left out on purpose: PROMPT_LOGPROBS, for which the
        # core now refuses requests, and BLOCK_COPY, without which it recomputes instead.
        features=frozenset(
            {Feature.LOGPROBS, Feature.PENALTIES, Feature.TOKEN_BIAS, Feature.TOKEN_MASK}
        ),
    )


@hookimpl
def pagoda_create_runner(
    config: RunnerConfig, model: ModelInfo, devices: Sequence[DeviceInfo]
) -> ModelRunner:
    from pagoda_echo.runner import EchoRunner

    return EchoRunner(config, model)


@hookimpl
def pagoda_diagnose() -> Mapping[str, str]:
    import numpy

    return {"numpy": numpy.__version__}


@hookimpl
def pagoda_conformance_profile() -> object:
    from pagoda.conformance.profile import Profile
    from pagoda_echo.cache import poison

    return Profile(models=("llama",), poison_cache=poison)
