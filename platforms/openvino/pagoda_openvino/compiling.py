"""From a graph to a compiled model: every property that changes results is set, none left to the
plugin's own taste (which is an 8-bit cache and activations rounded to 8 bits)."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import openvino as ov

from pagoda.platform import InvalidValue, PagodaError, RunnerConfig, UnsupportedFeature
from pagoda_openvino import machine

PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16", "u8": "u8"}
"""Pagoda's dtypes, for compute and for the cache, in OpenVINO's words."""

GROUPINGS = {"off": 0, "row": (1 << 64) - 1, "128": 128, "64": 64, "32": 32}
"""--openvino-dynamic-quantization: columns that share a scale; "row" is a scale for each token."""

Properties = Mapping[str, object]


@functools.cache
def core() -> ov.Core:
    """The process's one; it loads device plugins when they are first asked for."""
    return ov.Core()


def properties(config: RunnerConfig) -> Properties:
    """What to compile with.  Raises on settings that OpenVINO is known to crash or fail on."""
    compute = config.dtype
    cache = compute if config.kv_cache_dtype == "auto" else config.kv_cache_dtype
    if compute == "float32" and cache == "bfloat16":
        raise UnsupportedFeature(
            "OpenVINO computes attention in float32 over a float32 or 8-bit cache, not bfloat16",
            "--kv-cache-dtype float32, or --dtype bfloat16",
        )
    num_threads = threads(config.platform_options.get("openvino_threads"))
    if num_threads == 1 and compute == "bfloat16":
        raise UnsupportedFeature(
            "OpenVINO 2026.4 crashes when it compiles bfloat16 for one thread",
            "--openvino-threads 2, or --dtype float32",
        )
    return {
        "INFERENCE_PRECISION_HINT": PRECISIONS[compute],
        "KV_CACHE_PRECISION": PRECISIONS[cache],
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": str(activation_group(config)),
        "INFERENCE_NUM_THREADS": num_threads,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
    }


def activation_group(config: RunnerConfig) -> int:
    """Columns of activations that are rounded to 8 bits together, before they meet rounded
    weights; 0: none are."""
    asked = config.platform_options.get("openvino_dynamic_quantization", "off")
    if str(asked) not in GROUPINGS:
        raise InvalidValue("openvino_dynamic_quantization", asked, f"one of {', '.join(GROUPINGS)}")
    if asked != "off" and config.quantization is None:
        raise UnsupportedFeature(
            f"--openvino-dynamic-quantization {asked} rounds what rounded weights are multiplied"
            " by, and these weights are not rounded",
            "--quantization int8 or int4 with it",
        )
    return GROUPINGS[str(asked)]


def threads(asked: object) -> int:
    """The option's value, else one for each core."""
    if asked is None:
        return machine.num_cores()
    if isinstance(asked, bool) or not isinstance(asked, int) or asked < 1:
        raise InvalidValue("openvino_threads", asked, "must be a whole number above 0")
    return asked


def compile_graph(graph: ov.Model, device: str, chosen: Properties) -> ov.CompiledModel:
    """Compile.  What OpenVINO throws arrives with what was asked of it."""
    try:
        return core().compile_model(graph, device, dict(chosen))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[-300:]
        asked = ", ".join(f"{name}={value}" for name, value in chosen.items())
        raise PagodaError(f"OpenVINO cannot compile this model with {asked}: {reason}") from error
