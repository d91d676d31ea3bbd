"""What a transformers model does with its tokens, found out before it serves any.

On the meta device every attention call is recorded and its mask compared with what paged
attention can do; a model that mixes tokens in any other way is refused by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pagoda.platform import UnsupportedFeature
from pagoda_torch.attention import AttentionSpec

PROBE = "pagoda_probe"
"""The attention implementation of a probed model: its masks are sampled, not built."""

NUM_TOKENS = 3
LAYER_TYPES = {"full_attention", "sliding_attention"}
HARMLESS = {"position_ids", "cache_position", "position_embeddings", "use_cache"}


@dataclass(frozen=True)
class AttentionCall:
    """One attention layer: the module that called, and with what."""

    module: str
    spec: AttentionSpec
    value_size: int  # of a value head, where that is not a key head's


class Recorder:
    """Stands in for attention; notes each call and returns a tensor of the right shape."""

    def __init__(self, model: nn.Module, config: Any, max_len: int):
        self.names = {module: name for name, module in model.named_modules()}
        self.who = type(model).__name__
        self.grid = sample_positions(config, max_len)
        self.config_window = getattr(config, "sliding_window", None)
        self.calls: list[AttentionCall] = []
        for module in model.modules():
            module.pagoda_attention = self  # type: ignore[assignment]

    def __call__(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        is_causal: bool | None = None,
        **rest: Any,
    ) -> Tensor:
        name = self.names[module]
        unknown = [k for k, v in rest.items() if k not in HARMLESS and not _nothing(v)]
        if unknown or is_causal is False:
            raise refusal(self.who, f"{name} asks attention for {unknown or 'no causality'}")
        if any(name == call.module for call in self.calls):
            raise refusal(self.who, f"{name} attends twice in one pass")
        num_heads, key_size = query.shape[1], query.shape[-1]
        window = self._window(name, attention_mask, sliding_window)
        spec = AttentionSpec(
            num_heads=num_heads,
            num_kv_heads=key.shape[1],
            head_size=max(key_size, value.shape[-1]),
            scale=key_size**-0.5 if scaling is None else float(scaling),
            window=window,
            soft_cap=None if softcap is None else float(softcap),
        )
        self.calls.append(AttentionCall(name, spec, value.shape[-1]))
        return query.new_empty(1, query.shape[2], num_heads, value.shape[-1])

    def _window(self, name: str, mask: Tensor | None, said: int | None) -> int | None:
        """The window that this layer's mask has, among those that the model speaks of."""
        query, key = self.grid[:, None], self.grid[None]
        if mask is not None and mask.shape == (1, 1, len(self.grid), len(self.grid)):
            for window in (said, None, self.config_window):
                seen = key <= query
                if window is not None:
                    seen = seen & (key > query - int(window))
                if torch.equal(mask[0, 0], seen):
                    return None if window is None else int(window)
        raise refusal(self.who, f"{name} has a mask that is neither causal nor a sliding window")


def sample_positions(config: Any, max_len: int) -> Tensor:
    """Positions at which to compare masks: round numbers, windows, chunks, and their neighbours."""
    named = [getattr(config, key, None) for key in ("sliding_window", "attention_chunk_size")]
    around = [int(size) * n for size in named if size for n in (1, 2, 3)]
    around += [1 << i for i in range(max_len.bit_length())] + [max_len - 1]
    found = {place + shift for place in around for shift in (-2, -1, 0, 1, 2)}
    return torch.tensor(sorted(place for place in found if 0 <= place < max(max_len, 2)))


def probe(model: nn.Module, config: Any, max_len: int) -> list[AttentionCall]:
    """The attention layers of a model on the meta device, in the order of their calls.

    Raises UnsupportedFeature, naming the model, where paged attention would not be the same."""
    who = type(model).__name__
    text = config.get_text_config()
    _check_kind(model, text, who)
    recorder = Recorder(model, text, max_len)
    ids = torch.zeros(1, NUM_TOKENS, dtype=torch.int64, device="meta")
    places = torch.arange(NUM_TOKENS, device="meta")[None]
    global _sampled
    _sampled = recorder.grid
    try:
        model.base_model(  # type: ignore[operator]
            input_ids=ids,
            position_ids=places,
            attention_mask=torch.ones_like(ids),
            use_cache=False,
        )
    except UnsupportedFeature:
        raise
    except Exception as error:  # whatever a model's own code does with what it was given
        where = "in one flat batch" if recorder.calls else "before any attention of the interface"
        raise refusal(who, f"it fails {where} ({error!r:.200})") from error
    finally:
        _sampled = None
    if len(recorder.calls) != text.num_hidden_layers:
        raise refusal(
            who,
            f"{len(recorder.calls)} of its {text.num_hidden_layers} layers attend through"
            " transformers' attention interface",
        )
    return recorder.calls


def _check_kind(model: Any, text: Any, who: str) -> None:
    if getattr(model, "_is_stateful", False):
        raise refusal(who, "it carries a recurrent state")
    if "position_ids" not in inspect.signature(model.base_model.forward).parameters:
        raise refusal(who, "it takes no positions (ALiBi, a recurrence, or half of two models)")
    kinds = set(getattr(text, "layer_types", None) or ()) - LAYER_TYPES
    if kinds:
        raise refusal(who, f"it has layers of type {', '.join(sorted(kinds))}")
    for name, module in model.named_modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.RNNBase)):
            raise refusal(who, f"{name} mixes neighbouring tokens ({type(module).__name__})")


def refusal(who: str, why: str) -> UnsupportedFeature:
    return UnsupportedFeature(f"{who} cannot be served through transformers: {why}")


def _nothing(value: Any) -> bool:
    return value is None or value is False or (isinstance(value, (int, float)) and value == 0)


_sampled: Tensor | None = None


def sampled_mask(mask_function: Any = None, **rest: Any) -> Tensor:
    """The probe's mask maker: a mask [1, 1, N, N] at the sampled positions only."""
    if _sampled is None:
        raise RuntimeError("a mask was asked for outside of a probe")
    index = torch.zeros(1, 1, 1, 1, dtype=torch.int64)
    query, key = _sampled[None, None, :, None], _sampled[None, None, None, :]
    size = len(_sampled)
    mask: Tensor = mask_function(index, index, query, key).expand(1, 1, size, size)
    return mask


def check_mixing(run: Callable[[Tensor, Tensor], Tensor], who: str, device: torch.device) -> None:
    """Run a few tokens in two orders, attention mixing none of them: a model in which anything else
    does (a convolution, a shift, a recurrence) answers differently, and is refused."""
    ids, order = torch.arange(1, 6, device=device), torch.tensor([3, 0, 4, 2, 1], device=device)
    places = torch.arange(5, device=device)
    straight, shuffled = run(ids, places), run(ids[order], places[order])
    apart = (straight[order] - shuffled).float().norm()
    if apart > 0.02 * straight.float().norm():
        raise refusal(who, "something besides its attention mixes tokens")
