"""Why logits are wrong: the oracle is run with one mistake at a time, to see which fits.

The mistakes are those that backends make: each is a sentence that ends a failure message."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pagoda.conformance.oracle import Oracle, log_softmax
from pagoda.conformance.profile import TOLERANCES
from pagoda.platform.batch import PENDING, Float32, Int32
from pagoda.reference.llama import Attend
from pagoda.reference.rope import rotate

if TYPE_CHECKING:
    from pagoda.conformance.feeder import Life
    from pagoda.conformance.subject import Opened


def explain(oracle: Oracle, lives: Sequence[Life], life: Life, opened: Opened) -> str:
    """The likeliest cause of what ``life`` saw, in a sentence or two."""
    tokens = life.tokens
    if PENDING in tokens:
        return "a PENDING token was never resolved"
    places = [position for position, _ in life.seen]
    got = log_softmax(np.stack([logits for _, logits in life.seen]))
    expected = log_softmax(oracle.logits(tokens)[places])
    errors = np.abs(got - expected).max(axis=1)
    worst = float(errors.max())
    close = max(2 * opened.tolerance, worst / 20)
    at = int(errors.argmax())
    if row := _other_row(oracle, lives, (life, places[at]), got[at], close):
        return f"Likely cause: these are the logits of {row}."
    for story, attend in mistakes(oracle, life.starts):
        found = log_softmax(oracle.logits(tokens, attend)[places])
        if float(np.abs(found - got).max()) < close:
            return f"Likely cause: {story}."
    precision = _precision(worst, opened)
    first = places[int(np.flatnonzero(errors > opened.tolerance)[0])]
    right = [position for position, error in zip(places, errors, strict=True) if error <= close]
    fine = f" Right were those after {right[:8]}." if right else ""
    return f"{precision}The first wrong logits are those after token {first}.{fine}"


def _precision(worst: float, opened: Opened) -> str:
    for dtype in ("float16", "bfloat16"):
        if opened.variant.dtype == "float32" and worst <= TOLERANCES[dtype]:
            return (
                f"Likely cause: rounding to {dtype} (or to a format of such precision) while"
                " float32 is claimed. "
            )
    times = worst / opened.tolerance
    if times < 4:
        return f"{times:.1f} times what is allowed looks like rounding, not like a mistake. "
    return ""


def _other_row(
    oracle: Oracle, lives: Sequence[Life], own: tuple[Life, int], got: Float32, close: float
) -> str:
    for life in lives:
        if life.tokens and PENDING not in life.tokens:
            errors = np.abs(log_softmax(oracle.logits(life.tokens)) - got).max(axis=1)
            if life is own[0]:
                errors[own[1]] = np.inf
            if float(errors.min()) < close:
                return f"slot {life.slot} after its token {int(errors.argmin())}"
    return ""


def mistakes(oracle: Oracle, starts: Sequence[int]) -> Iterator[tuple[str, Attend]]:
    """Each mistake's sentence, and attention with that mistake in it."""
    head_dim = oracle.shape.head_dim
    root = np.float32(head_dim**0.5)
    stories: dict[str, tuple[str, dict[str, object]]] = {
        "unscaled": ("attention scores are not scaled by 1/sqrt(head size)", {"scale": root}),
        "twice": ("attention scores are scaled by 1/sqrt(head size) twice", {"scale": 1 / root}),
        "ahead": ("the causal mask is off by one: a token sees the one after it", {"ahead": 1}),
        "behind": ("the causal mask is off by one: a token does not see itself", {"ahead": -1}),
        "heads": (
            "query heads use the wrong key heads (h % num_kv_heads, not h // group size)",
            {"mixed_heads": True},
        ),
        "unrotated": ("no rotary embedding is applied", {"turn": "none"}),
        "pairs": ("rotary embedding turns neighbouring dimensions, not halves", {"turn": "pairs"}),
        "restart": ("positions begin at 0 in each step, not at the context", {"turn": "restart"}),
        "chunk": ("only this step's tokens are attended to, not the context", {"chunk": True}),
        "half": ("the keys or values in the cache are rounded to float16", {"rounding": 11}),
        "brain": ("the keys or values in the cache are rounded to bfloat16", {"rounding": 8}),
    }
    if any(oracle.shape.windows):
        stories["no window"] = ("the sliding window is ignored", {"window": 1 << 30})
        for by, word in ((1, "one token too many"), (-1, "one token too few")):
            stories[word] = (f"the sliding window holds {word}", {"window": by})
    for story, change in stories.values():
        yield story, _wrong_attention(oracle, starts, **change)  # type: ignore[arg-type]


def _wrong_attention(
    oracle: Oracle,
    starts: Sequence[int],
    scale: float = 1.0,
    ahead: int = 0,
    mixed_heads: bool = False,
    turn: str = "",
    chunk: bool = False,
    rounding: int = 0,
    window: int = 0,
) -> Attend:
    def attend(layer: int, query: Float32, key: Float32, value: Float32) -> Float32:
        length, num_heads, head_dim = query.shape
        positions: Int32 = np.arange(length, dtype=np.int32)
        began = np.array(starts)[np.searchsorted(starts, positions, side="right") - 1]
        if turn:
            query, key = (_turned(oracle, x, positions, began, turn) for x in (query, key))
        if rounding:
            key, value = _rounded(key, rounding), _rounded(value, rounding)
        heads = np.arange(num_heads)
        shared = num_heads // key.shape[1]
        use = heads % key.shape[1] if mixed_heads else heads // shared
        scores = np.einsum("qhd,khd->hqk", query, key[:, use]) * (scale / head_dim**0.5)
        distance = positions[:, None] - positions
        visible = distance >= -ahead
        if ahead < 0:  # the first token has nothing else to see
            visible[0, 0] = True
        limit = oracle.shape.windows[layer]
        if limit is not None:
            visible &= distance < limit + window
        if chunk:
            visible &= positions >= began[:, None]
        scores = np.where(visible, scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        mixed: Float32 = np.einsum("hqk,khd->qhd", weights, value[:, use]).astype(np.float32)
        return mixed

    return attend


def _turned(oracle: Oracle, x: Float32, positions: Int32, began: Int32, how: str) -> Float32:
    """x [T, H, D] with its rotation taken back and a wrong one in its place."""
    cos, sin = oracle.llama.cos, oracle.llama.sin
    plain = rotate(x, cos[positions], -sin[positions])
    if how == "restart":
        return rotate(plain, cos[positions - began], sin[positions - began])
    if how == "pairs":
        c, s = cos[positions][:, None], sin[positions][:, None]
        left, right = plain[..., 0::2], plain[..., 1::2]
        turned = np.stack([left * c - right * s, right * c + left * s], axis=-1)
        return turned.reshape(x.shape)
    return plain


def _rounded(x: Float32, bits: int) -> Float32:
    fraction, exponent = np.frexp(x)
    rounded: Float32 = np.ldexp(np.round(fraction * 2**bits) / 2**bits, exponent)
    return rounded
