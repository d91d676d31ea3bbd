"""OpenVINO's own paged attention as a graph node.

Node reference: src/core/src/op/paged_attention.cpp of OpenVINO 2026.4.  It is marked experimental,
so its form is tried before anything is built on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import openvino as ov
from openvino import opset13 as op

from pagoda.platform import ModelInfo, Unavailable, UnsupportedFeature

TESTED = "2026.4"
NUM_INPUTS = 28
STEP_INPUTS = ("past_lens", "subsequence_begins", "block_indices", "block_indices_begins")


Value: TypeAlias = ov.Node | ov.Output
"""An output, or a node that has but one."""


@dataclass(frozen=True)
class Heads:
    """What one layer's attention is made of."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    window: int | None = None  # tokens looked back on, the token itself counted; None: all
    scale: float | None = None  # of query times key; None: head_dim ** -0.5


def parameter(name: str, kind: ov.Type, shape: Sequence[int] | ov.PartialShape) -> ov.Node:
    """A graph input that goes by ``name``."""
    node = op.parameter(shape, kind, name=name)
    node.output(0).get_tensor().set_names({name})
    return node


def step_parameters() -> dict[str, ov.Node]:
    """The inputs all layers share: where each request's tokens and blocks lie, int32."""
    found = {name: parameter(name, ov.Type.i32, [-1]) for name in STEP_INPUTS}
    found["max_context_len"] = parameter("max_context_len", ov.Type.i32, [])
    return found


def cache_parameters(layer: int) -> list[ov.Node]:
    """A layer's key and value cache: type and shape are the device's to choose when it compiles."""
    return [
        parameter(f"{kind}_cache.{layer}", ov.Type.dynamic, ov.PartialShape.dynamic(4))
        for kind in ("key", "value")
    ]


def paged_attention(
    qkv: Sequence[Value],  # query [T, Hq * D], key [T, Hk * D], value [T, Hk * D]
    cache: Sequence[Value],
    step: Mapping[str, Value],
    heads: Heads,
) -> ov.Output:
    """[T, Hq * D]; the new keys and values are in the cache afterwards."""
    from openvino.op import _PagedAttentionExtension

    scale = _constant(heads.head_dim**-0.5 if heads.scale is None else heads.scale, np.float32)
    window = _constant(heads.window or 0, np.int32)
    ints, floats, octets = (_empty(kind) for kind in (np.int32, np.float32, np.uint8))
    zero = _constant(0, np.int32)
    inputs = [_output(value) for value in (*qkv, *cache, *(step[name] for name in STEP_INPUTS))]
    inputs += [scale, window, floats, _output(step["max_context_len"])]  # floats: ALiBi slopes
    inputs += [ints]  # window of attention scores to hand out
    inputs += [ints, ints, floats]  # cache rotation: blocks, deltas, table
    inputs += [floats, zero, zero]  # sparse prefill: threshold, block size, stride
    inputs += [_empty(np.float32, (0, 0, 0, 0))]  # attention sinks
    inputs += [zero, ints, ints, ints]  # adaptive eviction
    inputs += [ints, octets, ints]  # token types; masks among new tokens, and where each begins
    node = _PagedAttentionExtension(inputs)
    facts = node.get_rt_info()  # the device derives the caches' type and shape from these
    facts["num_k_heads"] = facts["num_v_heads"] = heads.num_kv_heads
    facts["k_head_size"] = facts["v_head_size"] = heads.head_dim
    return node.output(0)


def attention_alone(heads: Heads) -> ov.Model:
    """One layer of attention and nothing else, to ask a device what its cache looks like."""
    widths = (heads.num_heads, heads.num_kv_heads, heads.num_kv_heads)
    qkv = [
        parameter(name, ov.Type.f32, [-1, width * heads.head_dim])
        for name, width in zip("qkv", widths, strict=True)
    ]
    cache, step = cache_parameters(0), step_parameters()
    result = op.result(paged_attention(qkv, cache, step, heads))
    return ov.Model([result], [*qkv, *cache, *step.values()], "attention")


def refuse_soft_caps(model: ModelInfo) -> None:
    """Raise UnsupportedFeature for a model whose attention scores have one: the op would ignore it
    in silence."""
    cap = model.config.get("attn_logit_softcapping")
    if cap:
        raise UnsupportedFeature(
            f"{model.architecture}: attn_logit_softcapping={cap}, and OpenVINO's paged attention"
            " has no soft cap",
            "another --device",
        )


def require_known_op() -> None:
    """Raise Unavailable where this OpenVINO's op is not the one that this package fills in."""
    remedy = f"pip install 'openvino=={TESTED}.*'"
    try:
        attention_alone(Heads(1, 1, 32))
    except ImportError as error:
        raise Unavailable(
            f"OpenVINO {ov.__version__} shows no paged attention op to Python;"
            f" pagoda-openvino was tested with {TESTED}",
            remedy,
        ) from error
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise Unavailable(
            f"OpenVINO {ov.__version__} does not take the {NUM_INPUTS} inputs of paged attention"
            f" that pagoda-openvino, tested with {TESTED}, gives it ({reason})",
            remedy,
        ) from error


def _output(value: Value) -> ov.Output:
    return value if isinstance(value, ov.Output) else value.output(0)


def _constant(value: float, kind: type) -> ov.Output:
    return op.constant(np.array(value, kind)).output(0)


def _empty(kind: type, shape: tuple[int, ...] = (0,)) -> ov.Output:
    return op.constant(np.zeros(shape, kind)).output(0)
