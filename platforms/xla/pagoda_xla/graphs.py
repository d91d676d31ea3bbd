"""The graphs that run tokens through a model, one a step shape, and the copy of cache blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pagoda.platform.batch import Int32
from pagoda_torch.layers.attention import Attention
from pagoda_torch.models.interface import CausalLM
from pagoda_torch.step import TorchStep
from pagoda_xla.buckets import StepShape
from pagoda_xla.family import Runtime
from pagoda_xla.packing import field_sizes
from pagoda_xla.tiles import Tiles, unpack_step

NUM_COPIES = 8
"""Blocks copied in one run of the graph."""


class TracedStep:
    """What a model hands through to its attention layers."""

    def __init__(self, plans: dict[str, Tiles]):
        self.plans = plans


class StepGraphs:
    """The graphs of one model and cache."""

    def __init__(
        self,
        runtime: Runtime,
        model: CausalLM,
        layers: list[Attention],
        last_tokens: Tensor,
        block_size: int,
        max_tokens: int,
    ):
        self.runtime, self.model, self.layers = runtime, model, layers
        self.last_tokens, self.block_size, self.max_tokens = last_tokens, block_size, max_tokens
        self._forward: dict[StepShape, Callable[..., Any]] = {}
        self._copy = runtime.compile(f"copy of {NUM_COPIES} blocks", self._copied, 1)

    def forward(self, packed: Int32, shape: StepShape) -> Tensor:
        """Run a packed step; hidden states [max_tokens, H], beyond the step's tokens zeros."""
        graph = self._forward.get(shape)
        if graph is None:
            graph = self.runtime.compile(
                f"step of {shape.tokens} tokens, {shape.rows} rows, {shape.blocks} blocks",
                lambda packed: self.trace(packed, shape),
                1,
            )
            self._forward[shape] = graph
        hidden: Tensor = graph(self.runtime.upload(packed))
        return hidden

    def trace(self, packed: Tensor, shape: StepShape) -> Tensor:
        """What the graph of a step computes; writes to the caches."""
        step = unpack_step(packed, shape, self.block_size)
        last = self.last_tokens.index_select(0, step.token_slots)
        token_ids = torch.where(step.token_ids < 0, last, step.token_ids)
        plans = {layer.backend.name: step.tiles for layer in self.layers}
        # Models only hand the step through to attention, which here wants its plan alone.
        traced = cast(TorchStep, TracedStep(plans))
        hidden = self.model.forward(token_ids, step.positions, traced)
        return self.runtime.whole(F.pad(hidden, (0, 0, 0, self.max_tokens - shape.tokens)))

    def copy_blocks(self, copies: Int32) -> None:
        """Copy [C, 2] (source, destination) blocks, by the core's ids."""
        for start in range(0, len(copies), NUM_COPIES):
            pairs = np.zeros((NUM_COPIES, 2), np.int32)  # the null block on itself
            some = copies[start : start + NUM_COPIES] + 1
            pairs[: len(some)] = some
            slots = pairs.T[:, :, None] * self.block_size + np.arange(self.block_size)
            self._copy(self.runtime.upload(slots.reshape(2, -1).astype(np.int32)))

    def _copied(self, slots: Tensor) -> None:
        for layer in self.layers:
            layer.backend.copy_blocks(layer.cache, slots[0], slots[1])

    def warm_up(self, shapes: list[StepShape]) -> Iterator[str]:
        """Run every graph once on padding alone, telling which comes next."""
        for shape in shapes:
            yield f"{shape.tokens} tokens" + ("" if shape.tile > 1 else ", decoding")
            self.forward(padding(shape, len(self.last_tokens) - 1), shape)
        yield "copies"
        self.copy_blocks(np.full((1, 2), -1, np.int32))


def padding(shape: StepShape, spare_slot: int) -> Int32:
    """A packed step in which nothing is real."""
    parts = [
        np.full(size, spare_slot if name == "token_slots" else 0, np.int32)
        for name, size in field_sizes(shape).items()
    ]
    return np.concatenate(parts)
