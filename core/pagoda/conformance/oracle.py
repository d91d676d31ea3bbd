"""What is right: the reference model in float32 over whole sequences, without blocks or batches."""

from __future__ import annotations

import numpy as np

from pagoda.conformance.tiny import TinyModel
from pagoda.models.info import read_model_info
from pagoda.models.shape import read_shape
from pagoda.platform.batch import Float32, Int32
from pagoda.platform.types import RunnerConfig
from pagoda.reference.attention import attention
from pagoda.reference.llama import Attend, Llama
from pagoda.reference.load import load_weights


class Oracle:
    """Answers for one model; remembers what it was asked."""

    def __init__(self, model: TinyModel):
        info = read_model_info(model.folder)
        self.shape = read_shape(info, "reference")
        weights = load_weights(self.shape, info, RunnerConfig(dtype="float32"))
        self.llama = Llama(self.shape, weights, info.max_len)
        self._logits: dict[tuple[int, ...], Float32] = {}

    def logits(self, token_ids: list[int], attend: Attend | None = None) -> Float32:
        """[T, V] logits after each token; ``attend`` in place of right attention."""
        if attend is not None:
            return self._forward(token_ids, attend)
        key = tuple(token_ids)
        if key not in self._logits:
            self._logits[key] = self._forward(token_ids, self.attend)
        return self._logits[key]

    def attend(self, layer: int, query: Float32, key: Float32, value: Float32) -> Float32:
        """Right attention over a whole sequence."""
        positions = np.arange(len(key), dtype=np.int32)
        return attention(query, key, value, positions, self.shape.windows[layer])

    def shortfall(self, prompt: list[int], output: list[int]) -> Float32:
        """[len(output)] how far each token's logit is below the best, given all before it.

        Zero for greedy tokens; in low precision two tokens as good as equal may change places, so
        that comparing tokens would be unfair and comparing this is not."""
        logits = self.logits([*prompt, *output[:-1]])[len(prompt) - 1 :]
        chosen = logits[np.arange(len(output)), output]
        short: Float32 = logits.max(axis=1) - chosen
        return short

    def _forward(self, token_ids: list[int], attend: Attend) -> Float32:
        positions: Int32 = np.arange(len(token_ids), dtype=np.int32)
        hidden = self.llama.forward(np.array(token_ids, np.int32), positions, attend)
        return self.llama.logits(hidden)


def log_softmax(logits: Float32) -> Float32:
    """Over the last axis, in float64 inside."""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    found: Float32 = (wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True))).astype(np.float32)
    return found
