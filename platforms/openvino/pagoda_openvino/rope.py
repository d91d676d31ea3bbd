"""Rotary position embedding in the form that OpenVINO recognises and computes as one operation.

A form it does not recognise is not only slower: in bfloat16 the angles themselves are rounded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset13 as op

from pagoda.platform import BadCheckpoint, UnsupportedFeature

Float32 = npt.NDArray[np.float32]


def frequencies(rope: Mapping[str, Any], head_dim: int) -> Float32:
    """[head_dim / 2] radians a position: default, linear and llama3."""
    kind, part = rope.get("rope_type"), rope.get("partial_rotary_factor", 1)
    if kind not in ("default", "linear", "llama3") or part != 1:
        raise UnsupportedFeature(
            "platform 'openvino' knows RoPE default, linear and llama3 over whole heads, not"
            f" {kind!r} with partial_rotary_factor {part}",
            "another --device",
        )
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    plain: Float32 = 1 / np.float32(rope["rope_theta"]) ** exponents
    try:
        if kind == "linear":
            plain = plain / np.float32(rope["factor"])
        if kind == "llama3":
            plain = _llama3(plain, rope)
    except KeyError as missing:
        raise BadCheckpoint(f"config.json: rope type {kind} without {missing}") from missing
    return plain


def _llama3(plain: Float32, rope: Mapping[str, Any]) -> Float32:
    """Llama 3.1's stretch: low frequencies slowed down, high ones kept, a ramp between."""
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    turns = rope["original_max_position_embeddings"] * plain / np.float32(2 * math.pi)
    kept = np.clip((turns - low) / (high - low), 0, 1).astype(np.float32)
    slowed = plain / np.float32(rope["factor"])
    return np.asarray(kept * plain + (1 - kept) * slowed, np.float32)


class Rotation:
    """Cosine and sine of a step's positions [T], and the turn by them."""

    def __init__(self, positions: ov.Node, radians: Float32):
        self.half = len(radians)
        places = op.convert(op.reshape(positions, ints([-1, 1, 1]), False), "f32")
        angles = op.multiply(places, op.constant(radians.reshape(1, 1, -1)))
        both = op.concat([angles, angles], -1)
        self.cos = op.unsqueeze(op.cos(both), ints(1))  # [T, 1, 1, D]
        self.sin = op.unsqueeze(op.sin(both), ints(1))

    def turn(self, x: ov.Node) -> ov.Node:
        """Turn x [T, H, 1, D]; the two halves of D are a pair's coordinates."""
        one, last = ints([1]), ints([3])
        # Slices rather than a split, and a scalar -1: the form OpenVINO looks for.
        left = op.slice(x, ints([0]), ints([self.half]), one, last)
        right = op.slice(x, ints([self.half]), ints([2**63 - 1]), one, last)
        minus = op.constant(np.array(-1, np.float32))
        crossed = op.concat([op.multiply(right, minus), left], -1)
        return op.add(op.multiply(x, self.cos), op.multiply(crossed, self.sin))


def ints(value: int | list[int]) -> ov.Node:
    """An int64 constant, as OpenVINO wants indices and shapes."""
    return op.constant(np.array(value, np.int64))
