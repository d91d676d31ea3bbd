"""A transformers model's tensors under the names and shapes that its checkpoints have.

transformers stores some modules differently from its checkpoints (experts merged into one tensor,
say) and knows how to undo that when it saves; here the undoing is done with views, so that
copying into them fills the module."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightRenaming,
    rename_source_key,
    revert_weight_conversion,
)

from pagoda_torch.models.transformers_probe import refusal

_NEEDLESS = (r"rotary_emb\.inv_freq$", r"\.attn(ention)?\.(masked_)?bias$")


class _KeepViews(TorchFunctionMode):
    """Makes ``contiguous`` return its argument: what is cut out of a tensor stays a view."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.Tensor.contiguous:
            return args[0]
        return func(*args, **(kwargs or {}))


class CheckpointNames:
    """``views``: what a checkpoint holds, by its names, as views of the model's own tensors."""

    def __init__(self, model: PreTrainedModel):
        self.who = type(model).__name__
        self.prefix = model.base_model_prefix + "."
        state = model.state_dict()
        owners: dict[int, str] = {}
        self.tied = set()
        for name, tensor in state.items():
            if owners.setdefault(tensor.data_ptr(), name) != name and tensor.numel():
                self.tied.add(name)
        kept = {name: tensor for name, tensor in state.items() if name not in self.tied}
        with _KeepViews():
            self.views: dict[str, Tensor] = revert_weight_conversion(model, dict(kept))
        self._check(kept)
        by_place = {self._place(view): name for name, view in self.views.items()}
        self.saved_name: dict[str, str] = {
            name: by_place[self._place(tensor)]
            for name, tensor in kept.items()
            if self._place(tensor) in by_place
        }
        conversions = get_model_conversion_mapping(model)
        self.renamings = [c for c in conversions if isinstance(c, WeightRenaming)]
        patterns = [*_NEEDLESS, *(model._keys_to_ignore_on_load_unexpected or ())]
        self.needless = [re.compile(pattern) for pattern in patterns]

    def key(self, name: str) -> str | None:
        """The view for a checkpoint's tensor, whatever the spelling; None: not needed."""
        if name in self.views:
            return name
        renamed: str = rename_source_key(name, self.renamings, [])[0]
        for spelled in (name, renamed):
            for whole in (spelled, self.prefix + spelled, spelled.removeprefix(self.prefix)):
                if whole in self.views:
                    return whole
                if whole in self.saved_name:
                    return self.saved_name[whole]
                if whole in self.tied:
                    return None
        return None if any(pattern.search(name) for pattern in self.needless) else name

    def _check(self, kept: dict[str, Tensor]) -> None:
        """Every view must lie in a tensor of the model, and all of them must cover it."""
        storages = {tensor.untyped_storage().data_ptr() for tensor in kept.values()}
        for name, view in self.views.items():
            if view.untyped_storage().data_ptr() not in storages:
                raise refusal(self.who, f"its checkpoint's {name} is no part of one tensor of it")
        covered = sum(view.numel() for view in self.views.values())
        if covered != sum(tensor.numel() for tensor in kept.values()):
            raise refusal(self.who, "its checkpoint does not cover all of its tensors")

    @staticmethod
    def _place(tensor: Tensor) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
        return tensor.data_ptr(), tuple(tensor.shape), tensor.stride()
