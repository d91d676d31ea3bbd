"""The Neuron platform's hooks.  Nothing heavy is imported before a runner is asked for."""

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
    ModelInfo,
    ModelRunner,
    PlatformInfo,
    RunnerConfig,
    StepLimits,
    hookimpl,
)
from pagoda_neuron.environment import EMULATE

if TYPE_CHECKING:
    from pagoda.conformance.profile import Profile


@hookimpl
def pagoda_platform() -> PlatformInfo:
    summary = "AWS Trainium and Inferentia, through torch-neuronx and NKI"
    priority = 1 if os.environ.get(EMULATE) else 200  # an emulation is chosen by name only
    return PlatformInfo(name="neuron", summary=summary, contract=CONTRACT, priority=priority)


@hookimpl
def pagoda_probe() -> list[DeviceInfo]:
    from pagoda_neuron.devices import find_devices

    return find_devices()


@hookimpl
def pagoda_capabilities(model: ModelInfo | None, devices: Sequence[DeviceInfo]) -> Capabilities:
    from pagoda_neuron.buckets import RULE

    return Capabilities(
        limits=StepLimits(
            max_tokens=RULE.tokens[-1],
            max_requests=RULE.rows[-1],
            steps_in_flight=2,
            token_sizes=RULE.tokens,
        ),
        dtypes=("bfloat16", "float32"),
        features=frozenset(Feature) - {Feature.TENSOR_PARALLEL},
        block_sizes=(16, 32, 64, 128),
    )


@hookimpl
def pagoda_settings(model: ModelInfo, devices: Sequence[DeviceInfo]) -> Mapping[str, object]:
    return {
        "max_num_batched_tokens": 512,
        "max_num_seqs": 32,
        "max_model_len": min(model.max_len, 4096),
    }


@hookimpl
def pagoda_create_runner(
    config: RunnerConfig, model: ModelInfo, devices: Sequence[DeviceInfo]
) -> ModelRunner:
    from pagoda_neuron.running import create_runner

    return create_runner(config, model, tuple(devices))


@hookimpl
def pagoda_add_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--neuron-attention",
        choices=("nki", "gather"),
        help="the attention kernel: nki (default from Trainium 2 on), or gather in plain torch"
        " (Inferentia 2 and Trainium 1 have no other)",
    )


@hookimpl
def pagoda_diagnose() -> Mapping[str, str]:
    from pagoda_neuron.devices import diagnosis

    return diagnosis()


@hookimpl
def pagoda_conformance_profile() -> Profile:
    from pagoda.conformance.profile import Profile
    from pagoda_xla.poison import poison_cache

    return Profile(poison_cache=poison_cache)
