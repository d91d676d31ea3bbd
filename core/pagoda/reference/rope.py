"""Rotary position embeddings: tables of angles, and the turn by them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pagoda.models.rope import frequencies
from pagoda.platform.batch import Float32


def tables(rope: Mapping[str, Any], head_dim: int, num_positions: int) -> tuple[Float32, Float32]:
    """Cosine and sine, [num_positions, head_dim / 2] each."""
    positions = np.arange(num_positions, dtype=np.float32)
    angles = np.outer(positions, frequencies(rope, head_dim, "reference"))
    return np.cos(angles), np.sin(angles)


def rotate(x: Float32, cos: Float32, sin: Float32) -> Float32:
    """Turn x [T, H, D] by cos, sin [T, D / 2]; the two halves of D are a pair's coordinates."""
    left, right = np.split(x, 2, axis=-1)
    cos, sin = cos[:, None], sin[:, None]
    return np.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1)
