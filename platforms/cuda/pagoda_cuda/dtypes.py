"""What GPUs compute in and keep keys and values in, by compute capability."""

from __future__ import annotations

from collections.abc import Sequence

from pagoda.platform import DeviceInfo

FP8 = ("fp8_e4m3", "fp8_e5m2")

ROUNDING = {"fp8_e4m3": 1.5, "fp8_e5m2": 3.0}
"""What the conformance kit allows: three and two bits of fraction, without scales, are 2^-4 and
2^-3 of every key and value."""


def computed(devices: Sequence[DeviceInfo]) -> tuple[str, ...]:
    """Of weights and activations, the preferred first."""
    if _oldest(devices) >= (8, 0):
        return ("bfloat16", "float16", "float32")
    return ("float16", "float32")


def cached(devices: Sequence[DeviceInfo]) -> tuple[str, ...]:
    """Of a KV cache."""
    return ("auto", *FP8) if _oldest(devices) >= (8, 9) else ("auto",)


def _oldest(devices: Sequence[DeviceInfo]) -> tuple[int, ...]:
    """The lowest capability; Hopper's where there is no device to ask."""
    said = (device.details.get("compute capability", "9.0") for device in devices)
    return min((tuple(map(int, text.split("."))) for text in said), default=(9, 0))
