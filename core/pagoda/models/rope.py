"""The frequencies of rotary position embeddings: default, linear and llama3."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from pagoda.platform.batch import Float32
from pagoda.platform.errors import BadCheckpoint, UnsupportedFeature


def frequencies(rope: Mapping[str, Any], head_dim: int, platform: str) -> Float32:
    """[head_dim / 2] radians a position.  Raises UnsupportedFeature, in the name of ``platform``,
    for other kinds than these, and BadCheckpoint for one of these that lacks a number."""
    kind, part = rope.get("rope_type"), rope.get("partial_rotary_factor", 1)
    if kind not in ("default", "linear", "llama3") or part != 1:
        raise UnsupportedFeature(
            f"platform {platform!r} knows RoPE default, linear and llama3 over whole heads, not"
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
