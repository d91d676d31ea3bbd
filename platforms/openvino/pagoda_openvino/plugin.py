"""The OpenVINO platform's hooks.  OpenVINO is imported inside them."""

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

if TYPE_CHECKING:
    from pagoda.conformance.profile import Profile


@hookimpl
def pagoda_platform() -> PlatformInfo:
    return PlatformInfo(
        name="openvino",
        summary="CPUs, through OpenVINO: the whole model as one compiled graph",
        contract=CONTRACT,
        priority=5,
    )


@hookimpl
def pagoda_probe() -> list[DeviceInfo]:
    from importlib.util import find_spec

    if find_spec("openvino") is None:
        raise Unavailable("OpenVINO is not installed", "pip install 'pagoda-llm[openvino]'")
    from pagoda_openvino.devices import find_devices

    return find_devices()


@hookimpl
def pagoda_capabilities(model: ModelInfo | None, devices: Sequence[DeviceInfo]) -> Capabilities:
    from pagoda.models.shape import ARCHITECTURES
    from pagoda_openvino.devices import capabilities_of, openvino_name

    rounded = model is None or model.architecture in ARCHITECTURES
    capable = capabilities_of(openvino_name(tuple(devices)))
    fast = "BF16" in capable.words
    return Capabilities(
        limits=StepLimits(max_tokens=8192, max_requests=512),
        dtypes=("bfloat16", "float32") if fast else ("float32",),
        kv_dtypes=("auto", "bfloat16", "u8") if fast else ("auto", "float32", "u8"),
        quantizations=("int8", "int4") if rounded else (),
        features=frozenset(Feature) - {Feature.TENSOR_PARALLEL},
        block_sizes=(capable.block_size,),
    )


@hookimpl
def pagoda_settings(model: ModelInfo, devices: Sequence[DeviceInfo]) -> Mapping[str, object]:
    return {"max_num_batched_tokens": 512, "max_num_seqs": 128}


@hookimpl
def pagoda_create_runner(
    config: RunnerConfig, model: ModelInfo, devices: Sequence[DeviceInfo]
) -> ModelRunner:
    from pagoda_openvino.devices import openvino_name
    from pagoda_openvino.runner import OpenVINORunner

    return OpenVINORunner(config, model, openvino_name(tuple(devices)))


@hookimpl
def pagoda_add_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--openvino-threads",
        type=int,
        metavar="N",
        help="threads to compute with (default: one for each core that the process may use)",
    )
    group.add_argument(
        "--openvino-dynamic-quantization",
        choices=("off", "row", "128", "64", "32"),
        metavar="GROUP",
        help="with --quantization, round activations to 8 bits too, in groups of this many columns"
        " or a row at a time: row is the fast profile (default: off, exact)",
    )


@hookimpl
def pagoda_diagnose() -> Mapping[str, str]:
    from importlib.metadata import version

    from pagoda_openvino import machine

    total, free = machine.memory()
    return {
        "openvino": version("openvino"),
        "cores": str(machine.num_cores()),
        "memory": f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free",
    }


@hookimpl
def pagoda_conformance_profile() -> Profile:
    from pagoda.conformance.profile import Profile
    from pagoda_openvino.runner import poison_cache

    # What rounding costs the kit's models, twice over; that the rounded numbers are computed with
    # exactly is what tests/test_quantization.py holds.
    rounding = {"u8": 0.3, "int8": 0.8, "int4": 8.0}
    return Profile(tolerances=rounding, poison_cache=poison_cache)
