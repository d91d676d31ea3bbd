"""Picking tokens on the device, all rows at once; ``pagoda.sampling.reference`` is the definition.

Nothing here waits for the device unless it is synchronous anyway (``TorchDevice.overlaps``)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pagoda.platform import SamplingBatch
from pagoda_torch.draw import draw
from pagoda_torch.family import TorchDevice

CHUNK_ELEMENTS = 1 << 23
"""Logits of random rows turned into float64 weights at a time."""


@dataclass(frozen=True)
class DeviceLogprobs:
    """``pagoda.platform.Logprobs`` before its download."""

    token_ids: Tensor  # [N, K+1] int64
    logprobs: Tensor  # [N, K+1] float32
    ranks: Tensor  # [N] int64


def sample(
    logits: Tensor, batch: SamplingBatch, device: TorchDevice
) -> tuple[Tensor, DeviceLogprobs | None]:
    """Tokens [S] int64 for ``logits`` [S, V], and logprobs where the batch wants some."""
    if batch.plain_greedy:
        return logits.max(-1).indices, None  # argmax is slower

    raw = logits.float()
    scores = _adjusted(raw, batch, device)
    tokens = scores.max(-1).indices
    random = np.flatnonzero(batch.temperature)
    each = max(1, CHUNK_ELEMENTS // logits.shape[1])
    for start in range(0, len(random), each):
        rows = random[start : start + each]
        index = device.upload(rows)
        chosen = scores if len(rows) == len(scores) else scores.index_select(0, index)
        tokens[index] = draw(chosen, batch, rows, device)
    if not batch.wants_logprobs:
        return tokens, None
    return tokens, logprobs_of(raw, tokens, int(batch.num_logprobs.max()), device)


def logprobs_of(
    logits: Tensor, targets: Tensor, num_alternatives: int, device: TorchDevice
) -> DeviceLogprobs:
    """Logprobs of one target a row of raw float32 ``logits`` [N, V], with the likeliest
    alternatives, the lowest id first among equals."""
    own = logits.gather(1, targets[:, None])
    total = logits.logsumexp(-1, keepdim=True)
    token_ids = targets[:, None]
    count = min(num_alternatives, logits.shape[1])
    if count:
        token_ids = torch.cat((token_ids, _likeliest(logits, count, device)), 1)
    return DeviceLogprobs(
        token_ids=token_ids,
        logprobs=logits.gather(1, token_ids) - total,
        ranks=1 + (logits > own).sum(-1),
    )


def _likeliest(logits: Tensor, count: int, device: TorchDevice) -> Tensor:
    """[N, count] ids by falling logit, the lowest first among equals."""
    tried = 2 * count + 16
    if not device.overlaps and tried < logits.shape[1]:
        values, ids = logits.topk(tried)
        if bool((values[:, -1] < values[:, count - 1]).all()):  # no equals were left out
            ids, order = ids.sort()
            order = values.gather(1, order).sort(dim=-1, descending=True, stable=True).indices
            return ids.gather(1, order[:, :count])
    # One integer orders by value, then by lower id: the float's bits above, the id below.
    bits = (logits + 0.0).view(torch.int32).long()
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits) << 32
    ids = torch.arange(logits.shape[1], device=logits.device)
    return (ordered - ids).topk(count).indices


def _adjusted(raw: Tensor, batch: SamplingBatch, device: TorchDevice) -> Tensor:
    """The scores with bias, mask and penalties applied; ``raw`` itself where there are none."""
    if batch.bias is None and batch.mask is None and batch.penalties is None:
        return raw
    scores = raw.clone()
    if batch.bias is not None:
        where = _places(batch.bias.rows, batch.bias.token_ids, scores, device)
        values = scores.view(-1)[where] + device.upload(batch.bias.values)
        scores.view(-1)[where] = values
    if batch.mask is not None:
        words = device.upload(batch.mask.view(np.int32))
        bits = (words[:, :, None] >> torch.arange(32, device=words.device)) & 1
        allowed = bits.view(len(scores), -1)[:, : scores.shape[1]].bool()
        scores.masked_fill_(~allowed, float("-inf"))
    if batch.penalties is not None:
        penalties = batch.penalties
        rows, counts = device.upload(penalties.rows).long(), device.upload(penalties.counts)
        repetition, frequency, presence = (
            device.upload(x)[rows]
            for x in (penalties.repetition, penalties.frequency, penalties.presence)
        )
        where = _places(penalties.rows, penalties.token_ids, scores, device)
        seen = scores.view(-1)[where]
        seen = torch.where(seen > 0, seen / repetition, seen * repetition)
        seen = seen - frequency * counts - presence * (counts > 0)
        scores.view(-1)[where] = seen
    return scores


def _places(rows: np.ndarray, token_ids: np.ndarray, scores: Tensor, device: TorchDevice) -> Tensor:
    return device.upload(rows.astype(np.int64) * scores.shape[1] + token_ids)
