"""A transformers model dressed for tracing: the graph's inputs in, logits of the wanted tokens out,
attention a single operation that the conversion knows."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from pagoda_openvino.paged_attention import STEP_INPUTS
from pagoda_openvino.transformers_probe import attend_with

OP = "pagoda_openvino::attention"
STEP = (*STEP_INPUTS, "max_context_len")


@torch.library.custom_op(OP, mutates_args=())
def traced_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    past_lens: Tensor,
    subsequence_begins: Tensor,
    block_indices: Tensor,
    block_indices_begins: Tensor,
    max_context_len: Tensor,
    layer: int,
) -> Tensor:
    """What stands in a trace for one layer's attention: [T, Hq * D], of no meaning."""
    return torch.zeros_like(query)


class TracedModel(nn.Module):
    """Tokens are the batch dimension, and every sequence has length 1."""

    def __init__(self, model: Any, num_layers: int):
        super().__init__()
        self.model = model
        self.num_layers = num_layers
        self.inputs: dict[str, Any] = {}  # of the pass being traced
        self.layer = 0  # that attends next
        attend_with(model, self._attend)
        model.get_output_embeddings().register_forward_pre_hook(self._wanted_rows)

    def forward(
        self,
        token_ids: Tensor,
        positions: Tensor,
        logit_rows: Tensor,
        past_lens: Tensor,
        subsequence_begins: Tensor,
        block_indices: Tensor,
        block_indices_begins: Tensor,
        max_context_len: Tensor,
        caches: list[Tensor],
    ) -> Tensor:
        step = (past_lens, subsequence_begins, block_indices, block_indices_begins, max_context_len)
        self.inputs = {"step": step, "logit_rows": logit_rows, "caches": caches}
        self.layer = 0
        found = self.model(
            input_ids=token_ids[:, None], position_ids=positions[:, None], use_cache=False
        )
        logits: Tensor = found.logits[:, 0]
        return logits

    def example(self) -> dict[str, Any]:
        """One request of five tokens, to trace with."""

        def ints(*values: int) -> Tensor:
            return torch.tensor(values, dtype=torch.int32)

        return {
            **{"token_ids": torch.arange(5), "positions": torch.arange(5)},
            **{"logit_rows": torch.tensor([3, 4]), "past_lens": ints(0)},
            **{"subsequence_begins": ints(0, 5), "block_indices": ints(0)},
            **{"block_indices_begins": ints(0, 1), "max_context_len": ints(5)[0]},
            "caches": [torch.zeros(1, 1, 32, 8) for _ in range(2 * self.num_layers)],
        }

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, *masks: Any, **rest: Any
    ) -> Tensor:
        """[T, heads, 1, D] each -> [T, 1, Hq, D]."""
        layer, self.layer = self.layer, self.layer + 1
        qkv = [x.transpose(1, 2).reshape(-1, x.shape[1] * x.shape[-1]) for x in (query, key, value)]
        caches = self.inputs["caches"][2 * layer : 2 * layer + 2]
        mixed: Tensor = traced_attention(*qkv, *caches, *self.inputs["step"], layer)
        return mixed.reshape(-1, 1, query.shape[1], query.shape[-1])

    def _wanted_rows(self, head: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (given[0][self.inputs["logit_rows"]], *given[1:])


def settle_rope(model: nn.Module, max_len: int) -> None:
    """Settle RoPE kinds that follow the longest sequence of a batch on what ``max_len`` needs: a
    token must not depend on its neighbours, and a trace has no branches."""
    last = torch.tensor([[max_len - 1]])
    for module in model.modules():
        kind: Any = getattr(module, "rope_type", None)
        if kind is None or "position_ids" not in inspect.signature(module.forward).parameters:
            continue
        kinds = kind if isinstance(kind, dict) else {None: kind}
        for layer_type, word in kinds.items():
            if "dynamic" in word or word == "longrope":
                module(torch.zeros(1), last, **({"layer_type": layer_type} if layer_type else {}))
                if isinstance(kind, dict):
                    kind[layer_type] = "default"
                else:
                    module.rope_type = "default"  # type: ignore[assignment]
