"""One random token a row, from adjusted scores: temperature, min_p, top_k, top_p, inverse CDF.

``pagoda.sampling.reference.kept_weights`` is the definition.  Rows of a real model keep few tokens,
so a synchronous device first tries the likeliest alone, and checks that they were enough."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pagoda.platform import SamplingBatch
from pagoda_torch.family import TorchDevice

CANDIDATES = 1024


class Limits:
    """The sampling parameters of some rows, on the device as columns [S, 1]."""

    def __init__(
        self, batch: SamplingBatch, rows: npt.NDArray[np.int64], vocab: int, device: TorchDevice
    ):
        top_k, top_p, min_p = batch.top_k[rows], batch.top_p[rows], batch.min_p[rows]
        counted = (top_k > 0) & (top_k < vocab)
        self.most = int(top_k[counted].max(initial=0))
        self.any_share, self.any_least = bool((top_p < 1).any()), bool((min_p > 0).any())
        bounded = counted | (min_p > 0)  # before top_p
        self.all_bounded = bool(bounded.all())
        self.all_limited = bool((bounded | (top_p < 1)).all())

        def column(values: npt.NDArray[np.generic]) -> Tensor:
            return device.upload(values)[:, None]

        self.counted = column(counted)
        self.last = column(np.where(counted, top_k - 1, 0).astype(np.int64))
        self.bounded = column(bounded)
        self.share = column(np.minimum(top_p, 1).astype(np.float64))
        self.least = column(min_p)
        self.uniform = column(batch.uniform[rows].astype(np.float64))
        self.temperature = column(batch.temperature[rows])


def draw(
    scores: Tensor, batch: SamplingBatch, rows: npt.NDArray[np.int64], device: TorchDevice
) -> Tensor:
    """Tokens [S] int64 for the scores [S, V] of these rows of the batch, none of them greedy."""
    limits = Limits(batch, rows, scores.shape[1], device)
    scores = scores / limits.temperature
    if not device.overlaps and limits.all_limited and scores.shape[1] > 4 * CANDIDATES:
        found = _draw_from_likeliest(scores, limits)
        if found is not None:
            return found
    weights = (scores - scores.amax(-1, keepdim=True)).double().exp_()
    _keep(weights, scores, scores.topk(limits.most).values if limits.most else None, limits)
    if limits.any_share:
        likely = weights.sort(-1, descending=True).values
        weights.masked_fill_(weights < _least_kept(likely, likely.sum(-1, True), limits), 0)
    return _inverse(weights, limits)


def _draw_from_likeliest(scores: Tensor, limits: Limits) -> Tensor | None:
    """The same from the likeliest tokens; None where others might have been kept too."""
    values, ids = scores.topk(CANDIDATES)
    weights = (values - values[:, :1]).double().exp_()
    if limits.most > CANDIDATES:
        return None
    _keep(weights, values, values, limits)
    if limits.any_share:
        total = weights.sum(-1, True)
        if not limits.all_bounded:
            whole = (scores - values[:, :1]).exp_().sum(-1, True, dtype=torch.float64)
            total = torch.where(limits.bounded, total, whole)
        if bool((limits.bounded & (weights[:, -1:] > 0)).any()):
            return None
        weights.masked_fill_(weights < _least_kept(weights, total, limits), 0)
    if bool((weights[:, -1] > 0).any()):
        return None
    ids, order = ids.sort()
    chosen = _inverse(weights.gather(1, order), limits)
    return ids.gather(1, chosen[:, None])[:, 0]


def _keep(weights: Tensor, scores: Tensor, best: Tensor | None, limits: Limits) -> None:
    """Zero what min_p and top_k drop; ``best`` has a row's largest scores in falling order."""
    if limits.any_least:
        weights.masked_fill_(weights < limits.least, 0)
    if limits.most and best is not None:
        kth = best.gather(1, limits.last).masked_fill_(~limits.counted, float("-inf"))
        weights.masked_fill_(scores < kth, 0)


def _least_kept(likely: Tensor, total: Tensor, limits: Limits) -> Tensor:
    """[S, 1] the weight of the last token that top_p keeps, from weights in falling order; 0 where
    top_p is off."""
    last = torch.searchsorted(likely.cumsum(-1), limits.share * total)
    last = torch.minimum(last, (likely > 0).sum(-1, True) - 1).clamp_(min=0)  # of NaN, none is
    return likely.gather(1, last).masked_fill_(limits.share >= 1, 0)


def _inverse(weights: Tensor, limits: Limits) -> Tensor:
    """[S] the first index whose cumulative weight exceeds ``uniform`` times the whole."""
    mass = weights.cumsum(-1)
    total = mass[:, -1:].contiguous()
    found = torch.searchsorted(mass, limits.uniform * total, right=True)
    # A product rounded up to the whole takes the last token that has any weight.
    found = torch.minimum(found, torch.searchsorted(mass, total))[:, 0]
    return found.clamp_(max=mass.shape[-1] - 1)  # of NaN, beyond them all
