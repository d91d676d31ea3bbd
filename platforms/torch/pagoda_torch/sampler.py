"""Picking tokens on the device, all rows at once; ``pagoda.sampling.reference`` is the definition.

Nothing here waits for the device unless it is synchronous anyway (``TorchDevice.overlaps``)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pagoda.platform import SamplingBatch
from pagoda_torch.family import TorchDevice

CANDIDATES = 1024
"""Tokens tried before a whole row is sorted for top_p."""

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
        tokens[index] = _draw(chosen, batch, rows, device)
    if not batch.wants_logprobs:
        return tokens, None
    return tokens, logprobs_of(raw, tokens, int(batch.num_logprobs.max()))


def logprobs_of(logits: Tensor, targets: Tensor, num_alternatives: int) -> DeviceLogprobs:
    """Logprobs of one target a row of raw float32 ``logits`` [N, V], with the likeliest
    alternatives, the lowest id first among equals."""
    own = logits.gather(1, targets[:, None])
    total = logits.logsumexp(-1, keepdim=True)
    token_ids = targets[:, None]
    count = min(num_alternatives, logits.shape[1])
    if count:
        # One integer orders by value, then by lower id: the float's bits above, the id below.
        bits = (logits + 0.0).view(torch.int32).long()
        ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits) << 32
        ids = torch.arange(logits.shape[1], device=logits.device)
        token_ids = torch.cat((token_ids, (ordered - ids).topk(count).indices), 1)
    return DeviceLogprobs(
        token_ids=token_ids,
        logprobs=logits.gather(1, token_ids) - total,
        ranks=1 + (logits > own).sum(-1),
    )


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


def _draw(scores: Tensor, batch: SamplingBatch, rows: np.ndarray, device: TorchDevice) -> Tensor:
    """One token for each of these rows, none of them greedy."""
    top_k, top_p, min_p = batch.top_k[rows], batch.top_p[rows], batch.min_p[rows]
    scores = scores / device.upload(batch.temperature[rows])[:, None]
    weights = (scores - scores.amax(-1, keepdim=True)).double().exp_()
    if min_p.any():
        weights.masked_fill_(weights < device.upload(min_p)[:, None], 0)
    num_tokens = scores.shape[1]
    limited = (top_k > 0) & (top_k < num_tokens)
    if limited.any():
        best = scores.topk(int(top_k[limited].max())).values
        last = device.upload(np.where(limited, top_k - 1, 0).astype(np.int64))
        kth = best.gather(1, last[:, None])
        kth.masked_fill_(device.upload(~limited)[:, None], float("-inf"))
        weights.masked_fill_(scores < kth, 0)
    if (top_p < 1).any():
        share = device.upload(np.minimum(top_p, 1).astype(np.float64))[:, None]
        weights.masked_fill_(weights < _least_likely(weights, share, device), 0)
    mass = weights.cumsum(-1)
    total = mass[:, -1:].contiguous()
    target = device.upload(batch.uniform[rows].astype(np.float64))[:, None] * total
    found = torch.searchsorted(mass, target, right=True)
    # A target rounded up to the whole mass takes the last token that has any.
    return torch.minimum(found, torch.searchsorted(mass, total))[:, 0]


def _least_likely(weights: Tensor, share: Tensor, device: TorchDevice) -> Tensor:
    """[S, 1] the weight of the last token that top_p keeps."""
    target = share * weights.sum(-1, keepdim=True)
    if not device.overlaps and weights.shape[1] > CANDIDATES:
        likely = weights.topk(CANDIDATES).values
        mass = likely.cumsum(-1)
        if bool((mass[:, -1:] >= target).all()):
            return likely.gather(1, torch.searchsorted(mass, target))
    likely = weights.sort(-1, descending=True).values
    last = torch.searchsorted(likely.cumsum(-1), target)
    last = torch.minimum(last, (likely > 0).sum(-1, keepdim=True) - 1)
    return likely.gather(1, last)
