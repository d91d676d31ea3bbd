"""Rotary position embeddings: default, linear and llama3 frequencies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from pagoda.platform.batch import Float32
from pagoda.platform.errors import BadCheckpoint, UnsupportedFeature


def frequencies(rope: Mapping[str, Any], head_dim: int) -> Float32:
    """[head_dim / 2] radians a position."""
    kind = rope.get("rope_type")
    if kind not in ("default", "linear", "llama3") or rope.get("partial_rotary_factor", 1) != 1:
        raise UnsupportedFeature(
            "the reference platform knows RoPE default, linear and llama3 over whole heads, not"
            f" {kind!r} with partial_rotary_factor {rope.get('partial_rotary_factor', 1)}",
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


def tables(rope: Mapping[str, Any], head_dim: int, num_positions: int) -> tuple[Float32, Float32]:
    """Cosine and sine, [num_positions, head_dim / 2] each."""
    positions = np.arange(num_positions, dtype=np.float32)
    angles = np.outer(positions, frequencies(rope, head_dim))
    return np.cos(angles), np.sin(angles)


def rotate(x: Float32, cos: Float32, sin: Float32) -> Float32:
    """Turn x [T, H, D] by cos, sin [T, D / 2]; the two halves of D are a pair's coordinates."""
    left, right = np.split(x, 2, axis=-1)
    cos, sin = cos[:, None], sin[:, None]
    return np.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1)
