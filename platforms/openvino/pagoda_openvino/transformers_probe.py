"""What a transformers model asks of attention, found out on the meta device before a weight is
read; what OpenVINO's op would compute otherwise, or not at all, is refused by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from pagoda.platform import UnsupportedFeature
from pagoda_openvino.paged_attention import Heads

PAGED = "pagoda_openvino"
"""The name of our attention in transformers' interface."""

LAYER_TYPES = {"full_attention", "sliding_attention"}
HARMLESS = {"position_ids", "cache_position", "position_embeddings", "use_cache", "dropout"}

Attend = Callable[..., Tensor]
"""(query [B, Hq, N, D], key, value [B, Hk, N, D], mask, all else by name) -> [B, N, Hq, D]"""


def attend_with(model: nn.Module, attend: Attend) -> None:
    """Have every attention of ``model`` come to ``attend``."""
    for module in model.modules():
        module.pagoda_attend = attend  # type: ignore[assignment]


def _attention(module: Any, *tensors: Tensor | None, **rest: Any) -> tuple[Tensor, None]:
    return module.pagoda_attend(*tensors, **rest), None


_sampled: Tensor | None = None  # while probing: the positions at which masks are looked at


def _mask(mask_function: Any = None, **rest: Any) -> Tensor | None:
    """[1, 1, N, N] which sampled positions see which; None, for no mask, where nobody probes."""
    if _sampled is None or mask_function is None:
        return None
    index, size = torch.zeros(1, 1, 1, 1, dtype=torch.int64), len(_sampled)
    query, key = _sampled[None, None, :, None], _sampled[None, None, None, :]
    seen: Tensor = mask_function(index, index, query, key).expand(1, 1, size, size)
    return seen


AttentionInterface.register(PAGED, _attention)
AttentionMaskInterface.register(PAGED, _mask)


class Recorder:
    """Stands in for attention: notes what each layer asks for, in the order of the layers."""

    def __init__(self, who: str, config: Any, max_len: int):
        self.who = who
        self.window = getattr(config, "sliding_window", None)
        self.places = _places(self.window, max_len)
        self.layers: list[Heads] = []

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        scaling: float | None = None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        is_causal: bool | None = None,
        **rest: Any,
    ) -> Tensor:
        asked = [
            name for name, given in rest.items() if name not in HARMLESS and not _nothing(given)
        ]
        if softcap:
            raise refusal(self.who, f"attention with a soft cap ({softcap}), which the op lacks")
        if asked or is_causal is False:
            raise refusal(self.who, f"attention with {', '.join(asked) or 'no causality'}")
        if value.shape[-1] != key.shape[-1]:
            raise refusal(self.who, f"keys of {key.shape[-1]} and values of {value.shape[-1]}")
        heads = Heads(
            query.shape[1], key.shape[1], key.shape[-1], self._window(mask, sliding_window), scaling
        )
        self.layers.append(heads)
        return query.new_empty(query.shape[0], query.shape[2], query.shape[1], value.shape[-1])

    def _window(self, mask: Tensor | None, said: int | None) -> int | None:
        """The window of this layer's mask, among those that the model speaks of."""
        query, key = self.places[:, None], self.places[None]
        for window in (said, None, self.window):
            seen = key <= query
            if window is not None:
                seen = seen & (key > query - int(window))
            if mask is not None and mask.shape[-2:] == seen.shape and torch.equal(mask[0, 0], seen):
                return None if window is None else int(window)
        raise refusal(self.who, "a mask that is neither causal nor a sliding window")


def probe(model: Any, max_len: int) -> list[Heads]:
    """The attention of each layer of a model on the meta device.  Raises UnsupportedFeature."""
    global _sampled
    who, config = type(model).__name__, model.config.get_text_config()
    _check_kind(model, config, who)
    recorder = Recorder(who, config, max_len)
    attend_with(model, recorder)
    ids = torch.zeros(1, 3, dtype=torch.int64, device="meta")
    places = torch.arange(3, device="meta")[None]
    _sampled = recorder.places
    try:
        model.base_model(
            input_ids=ids, position_ids=places, attention_mask=torch.ones_like(ids), use_cache=False
        )
    except UnsupportedFeature:
        raise
    except Exception as error:  # whatever a model's own code does with what it was given
        raise refusal(who, f"its forward fails ({error!r:.200})") from error
    finally:
        _sampled = None
    if len(recorder.layers) != config.num_hidden_layers:
        raise refusal(
            who,
            f"{len(recorder.layers)} of its {config.num_hidden_layers} layers attend through"
            " transformers' attention interface",
        )
    return recorder.layers


def refusal(who: str, why: str) -> UnsupportedFeature:
    return UnsupportedFeature(
        f"platform 'openvino' cannot serve {who} through transformers: {why}", "another --device"
    )


def _check_kind(model: Any, config: Any, who: str) -> None:
    """Tokens are the batch dimension of the graph: attention alone may look from one to another."""
    if getattr(model, "_is_stateful", False):
        raise refusal(who, "it carries a recurrent state")
    if "position_ids" not in inspect.signature(model.base_model.forward).parameters:
        raise refusal(who, "it takes no positions (ALiBi, a recurrence)")
    kinds = set(getattr(config, "layer_types", None) or ()) - LAYER_TYPES
    if kinds:
        raise refusal(who, f"layers of type {', '.join(sorted(kinds))}")
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.RNNBase):
            raise refusal(who, f"{name} mixes neighbouring tokens ({type(module).__name__})")


def _places(window: int | None, max_len: int) -> Tensor:
    """Positions around powers of two and multiples of the window, where masks would differ."""
    around = [1 << bit for bit in range(max_len.bit_length())] + [max_len - 1]
    around += [window * times for times in (1, 2, 3)] if window else []
    found = {place + shift for place in around for shift in (-2, -1, 0, 1, 2)}
    return torch.tensor(sorted(place for place in found if 0 <= place < max(max_len, 2)))


def _nothing(value: Any) -> bool:
    return value is None or value is False or (isinstance(value, int | float) and value == 0)
