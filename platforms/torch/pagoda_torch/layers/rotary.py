"""Rotary position embeddings with every scaling that transformers knows for Llama.

The formulas follow transformers' ``modeling_rope_utils`` (tested against it) and the papers named
there.  Kinds whose frequencies depend on the sequence's length (dynamic, longrope) are fixed at
load by ``max_model_len``, so that tokens never depend on how a sequence was cut into steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pagoda.models.info import rope_parameters
from pagoda.platform import BadCheckpoint
from pagoda_torch.layers.context import ModelContext

_LONG_FIELDS = ("llama3", "yarn", "longrope")


@dataclass(frozen=True)
class RopeSettings:
    """A config's RoPE parameters, either spelling, with the defaults filled in."""

    kind: str
    theta: float
    dim: int  # rotated part of a head
    head_size: int
    max_positions: int  # the config's max_position_embeddings
    original_positions: int
    sequence_len: int  # what length-dependent kinds are fixed for
    values: Mapping[str, Any]

    def number(self, key: str) -> float:
        value = self.values.get(key)
        if not isinstance(value, (int, float)):
            raise BadCheckpoint(f"RoPE type {self.kind!r} needs a number {key!r}, found {value!r}")
        return float(value)


def read_rope(config: Mapping[str, Any], head_size: int, sequence_len: int) -> RopeSettings:
    """Read ``rope_parameters``, or ``rope_scaling`` with ``rope_theta``."""
    values = rope_parameters(config)
    if "rope_type" not in values:
        raise BadCheckpoint(f"RoPE parameters by layer type are not understood: {values!r}")
    kind = str(values["rope_type"])
    max_positions = int(config.get("max_position_embeddings") or sequence_len)
    original = values.get("original_max_position_embeddings")
    if kind in _LONG_FIELDS and config.get("original_max_position_embeddings"):
        original = config["original_max_position_embeddings"]
    partial = float(values.get("partial_rotary_factor") or 1.0)
    return RopeSettings(
        kind=kind,
        theta=float(values["rope_theta"]),
        dim=int(head_size * partial),
        head_size=head_size,
        max_positions=max_positions,
        original_positions=int(original or max_positions),
        sequence_len=sequence_len,
        values=values,
    )


def frequencies(rope: RopeSettings) -> tuple[Tensor, float]:
    """Inverse frequencies [dim / 2] float32, and what cos and sin are multiplied by."""
    compute = _KINDS.get(rope.kind)
    if compute is None:
        raise BadCheckpoint(f"unknown RoPE type {rope.kind!r}", f"one of {', '.join(_KINDS)}")
    return compute(rope)


def _powers(theta: float, dim: int) -> Tensor:
    return theta ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)


def _default(rope: RopeSettings) -> tuple[Tensor, float]:
    return 1.0 / _powers(rope.theta, rope.dim), 1.0


def _linear(rope: RopeSettings) -> tuple[Tensor, float]:
    return 1.0 / _powers(rope.theta, rope.dim) / rope.number("factor"), 1.0


def _proportional(rope: RopeSettings) -> tuple[Tensor, float]:
    rotated = 2 * (rope.dim // 2)
    steps = torch.arange(0, rotated, 2, dtype=torch.float32) / rope.head_size
    still = torch.zeros(rope.head_size // 2 - rotated // 2)
    factor = rope.number("factor") if "factor" in rope.values else 1.0
    return torch.cat((1.0 / rope.theta**steps, still)) / factor, 1.0


def _dynamic(rope: RopeSettings) -> tuple[Tensor, float]:
    factor, length = rope.number("factor"), max(rope.sequence_len, rope.max_positions)
    stretch = factor * length / rope.max_positions - (factor - 1)
    return 1.0 / _powers(rope.theta * stretch ** (rope.dim / (rope.dim - 2)), rope.dim), 1.0


def _long_ratio(rope: RopeSettings) -> float:
    if rope.values.get("factor") is not None:
        return rope.number("factor")
    return rope.max_positions / rope.original_positions


def _yarn(rope: RopeSettings) -> tuple[Tensor, float]:
    factor, dim = _long_ratio(rope), rope.dim

    def scale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    def turning_dim(rotations: float) -> float:
        turns = rope.original_positions / (rotations * 2 * math.pi)
        return dim * math.log(turns) / (2 * math.log(rope.theta))

    mscale, mscale_all = rope.values.get("mscale"), rope.values.get("mscale_all_dim")
    attention = rope.values.get("attention_factor")
    if attention is None:
        attention = scale(mscale) / scale(mscale_all) if mscale and mscale_all else scale(1.0)
    low = turning_dim(rope.values.get("beta_fast") or 32)
    high = turning_dim(rope.values.get("beta_slow") or 1)
    if rope.values.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001
    ramp = ((torch.arange(dim // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    powers = _powers(rope.theta, dim)
    return 1.0 / (factor * powers) * ramp + 1.0 / powers * (1 - ramp), float(attention)


def _longrope(rope: RopeSettings) -> tuple[Tensor, float]:
    factor, original = _long_ratio(rope), rope.original_positions
    attention = rope.values.get("attention_factor")
    if attention is None:
        stretched = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
        attention = stretched
    which = "long_factor" if rope.sequence_len > original else "short_factor"
    factors = rope.values.get(which)
    if not isinstance(factors, (list, tuple)) or len(factors) != rope.dim // 2:
        raise BadCheckpoint(f"RoPE type 'longrope' needs {which!r}, a list of {rope.dim // 2}")
    scaled = torch.tensor(factors, dtype=torch.float32) * _powers(rope.theta, rope.dim)
    return 1.0 / scaled, float(attention)


def _llama3(rope: RopeSettings) -> tuple[Tensor, float]:
    factor = rope.number("factor")
    low, high = rope.number("low_freq_factor"), rope.number("high_freq_factor")
    inverse = 1.0 / _powers(rope.theta, rope.dim)
    wavelength = 2 * math.pi / inverse
    smooth = (rope.original_positions / wavelength - low) / (high - low)
    blended = (1 - smooth) * inverse / factor + smooth * inverse
    long = wavelength > rope.original_positions / low
    short = wavelength < rope.original_positions / high
    return torch.where(long, inverse / factor, torch.where(short, inverse, blended)), 1.0


_KINDS: dict[str, Callable[[RopeSettings], tuple[Tensor, float]]] = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "yarn": _yarn,
    "longrope": _longrope,
    "llama3": _llama3,
    "proportional": _proportional,
}


class Rotary:
    """cos and sin of every position up to max_model_len, looked up once a step."""

    def __init__(self, context: ModelContext, config: Mapping[str, Any], head_size: int):
        inverse, scale = frequencies(read_rope(config, head_size, context.max_model_len))
        angles = torch.outer(torch.arange(context.max_model_len, dtype=torch.float32), inverse)
        cos, sin = angles.cos() * scale, angles.sin() * scale
        table = torch.stack((torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)), 1)
        self.table = table.to(context.device, context.dtype)  # [max_model_len, 2, dim]
        self._rotate = context.ops.rotary

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin [T, 1, dim] of the step's tokens, for all layers."""
        cos, sin = torch.split(self.table[positions], 1, 1)
        return cos, sin

    def __call__(self, x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
        """Rotate [T, heads, head size] in place."""
        return self._rotate(x, *angles)
