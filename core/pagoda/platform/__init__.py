"""The platform contract: everything a backend imports from the core."""

from pagoda.platform.batch import (
    PENDING,
    BlockTable,
    Penalties,
    SamplingBatch,
    ScheduledBatch,
    ScoreBatch,
    TokenBias,
)
from pagoda.platform.errors import (
    BadCheckpoint,
    InvalidValue,
    OutOfMemory,
    PagodaError,
    Unavailable,
    UnsupportedFeature,
)
from pagoda.platform.hookspecs import hookimpl
from pagoda.platform.runner import (
    Done,
    KVCacheSpec,
    KVGroup,
    Logprobs,
    ModelRunner,
    StepHandle,
    StepResult,
)
from pagoda.platform.types import (
    CONTRACT,
    Capabilities,
    DeviceInfo,
    Feature,
    ModelInfo,
    PlatformInfo,
    RunnerConfig,
    StepLimits,
    StepStats,
)

__all__ = [
    "CONTRACT",
    "PENDING",
    "BadCheckpoint",
    "BlockTable",
    "Capabilities",
    "DeviceInfo",
    "Done",
    "Feature",
    "InvalidValue",
    "KVCacheSpec",
    "KVGroup",
    "Logprobs",
    "ModelInfo",
    "ModelRunner",
    "OutOfMemory",
    "PagodaError",
    "Penalties",
    "PlatformInfo",
    "RunnerConfig",
    "SamplingBatch",
    "ScheduledBatch",
    "ScoreBatch",
    "StepHandle",
    "StepLimits",
    "StepResult",
    "StepStats",
    "TokenBias",
    "Unavailable",
    "UnsupportedFeature",
    "hookimpl",
]
