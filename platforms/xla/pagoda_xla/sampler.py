"""Picking tokens inside the graph; ``pagoda.sampling.reference`` is the definition.

Plain functions of static shapes in float32 and int32.  Entries of bias and penalties come in pieces
of one length, filled up by repeating an entry, which changes nothing: values are set, not added."""

from __future__ import annotations

import torch
from torch import Tensor


def greedy(scores: Tensor) -> Tensor:
    """[S] int32 the lowest id among each row's largest scores [S, V]."""
    return _lowest(scores == scores.amax(-1, keepdim=True))


def _lowest(chosen: Tensor) -> Tensor:
    """[S] int32 the first True of each row [S, V]; the last index where there is none."""
    ids = torch.arange(chosen.shape[1], dtype=torch.int32, device=chosen.device)
    return torch.where(chosen, ids, chosen.shape[1] - 1).amin(-1)


def biased(scores: Tensor, places: Tensor, values: Tensor) -> Tensor:
    """scores [S, V] with values [N] added at flat places [N] int32."""
    flat = scores.reshape(-1)
    new = flat.index_select(0, places) + values
    return flat.index_put((places,), new).view(scores.shape)


def masked(scores: Tensor, words: Tensor, bits: Tensor) -> Tensor:
    """-inf where the bit of words [S, ceil(V / 32)] int32 is 0; bits [32] int32 has one bit each,
    for torch-xla's shift to the right is wrong for negative words."""
    allowed = (words[:, :, None] & bits).view(len(words), -1)[:, : scores.shape[1]] != 0
    return torch.where(allowed, scores, float("-inf"))


def penalised(scores: Tensor, places: Tensor, counts: Tensor, strengths: Tensor) -> Tensor:
    """The scores at flat places [N] int32 penalised for what was seen counts [N] times; strengths
    [3, N]: repetition, frequency, presence."""
    flat = scores.reshape(-1)
    repetition, frequency, presence = strengths.unbind()
    seen = flat.index_select(0, places)
    seen = torch.where(seen > 0, seen / repetition, seen * repetition)
    seen = seen - frequency * counts - presence * (counts > 0)
    return flat.index_put((places,), seen).view(scores.shape)


def drawn(scores: Tensor, temperature: Tensor, uniform: Tensor, limits: Tensor | None) -> Tensor:
    """[S] int32 one token a row; rows of temperature 0 take the likeliest.

    limits [3, S] float32: top_k - 1 (below 0: off), top_p, min_p; None where no row has any."""
    random = temperature > 0
    scaled = scores / torch.where(random, temperature, 1.0)[:, None]
    weights = torch.exp(scaled - scaled.amax(-1, keepdim=True))
    if limits is not None:
        weights = _kept(scaled, weights, *limits.unbind())
    mass = weights.cumsum(-1)
    target = uniform[:, None] * mass[:, -1:]
    some = weights > 0
    found = _lowest((mass > target) & some)
    # A product rounded up to the whole takes the last token that has any weight.
    ids = torch.arange(scores.shape[1], dtype=torch.int32, device=scores.device)
    last = torch.where(some, ids, 0).amax(-1)
    return torch.where(random, torch.minimum(found, last), greedy(scores))


def _kept(scaled: Tensor, weights: Tensor, last: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor:
    """The weights with those that min_p, top_k and top_p drop at 0, as the definition has it."""
    weights = torch.where(weights < min_p[:, None], 0.0, weights)
    falling = scaled.sort(-1, descending=True).values
    counted = last >= 0
    kth = falling.gather(1, torch.where(counted, last, 0.0).int()[:, None].long())
    kth = torch.where(counted[:, None], kth, float("-inf"))
    weights = torch.where(scaled < kth, 0.0, weights)
    # Dropping keeps the order, so the sorted weights are those of the sorted scores, cut alike.
    likely = torch.exp(falling - falling[:, :1])
    likely = torch.where((likely < min_p[:, None]) | (falling < kth), 0.0, likely)
    mass = likely.cumsum(-1)
    share = top_p[:, None]
    reached = (mass >= share * mass[:, -1:]) & (likely > 0)
    # Where rounding lets no sum reach the share, all are kept.
    least = torch.where(reached, likely, 0.0).amax(-1, keepdim=True)
    least = torch.where(share < 1, least, 0.0)
    return torch.where(weights < least, 0.0, weights)


def logprobs_of(logits: Tensor, targets: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of raw float32 logits [N, V]: ids [N, count + 1] int32 (the targets, then the likeliest, the
    lowest id first among equals), their logprobs, and the targets' ranks [N] int32."""
    own = logits.gather(1, targets.long()[:, None])
    equal = torch.where(logits == 0, 0.0, logits)  # XLA sorts -0.0 below 0.0
    best, order = equal.sort(dim=-1, descending=True, stable=True)
    ids = torch.cat((targets[:, None], order[:, :count].int()), 1)
    values = torch.cat((own, best[:, :count]), 1) - logits.logsumexp(-1, keepdim=True)
    ranks = 1 + (logits > own).sum(-1, dtype=torch.int32)
    return ids, values, ranks
