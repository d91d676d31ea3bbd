"""What sampling means, in NumPy: the definition that every platform's own sampler is tested by,
and the sampler of those that have none.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pagoda.platform.batch import Float32, Int32, SamplingBatch
from pagoda.platform.runner import Logprobs

Float64 = npt.NDArray[np.float64]


def sample(logits: Float32, batch: SamplingBatch) -> tuple[Int32, Logprobs | None]:
    """One token a row of ``logits`` [S, V], and its logprobs where the batch wants some.

    In this order: bias, mask, penalties (repetition, then frequency and presence); greedy rows
    then take the largest, the lowest id among equals.  The others divide by temperature and keep
    what min_p, top_k and top_p keep; the token is the first in id order whose cumulative
    probability exceeds ``uniform`` times the mass kept.  A row must allow some token."""
    scores = adjust(logits, batch)
    token_ids = scores.argmax(axis=1).astype(np.int32)
    for row in np.flatnonzero(batch.temperature).tolist():
        weights = kept_weights(
            scores[row] / batch.temperature[row],
            int(batch.top_k[row]),
            float(batch.top_p[row]),
            float(batch.min_p[row]),
        )
        cumulative = np.cumsum(weights)
        target = float(batch.uniform[row]) * cumulative[-1]
        token_ids[row] = np.searchsorted(cumulative, target, side="right")
    if not batch.wants_logprobs:
        return token_ids, None
    return token_ids, logprobs_of(logits, token_ids, int(batch.num_logprobs.max()))


def adjust(logits: Float32, batch: SamplingBatch) -> Float32:
    """[S, V] a copy of the logits with bias, mask and penalties applied."""
    scores = np.array(logits, np.float32)
    if batch.bias is not None:
        scores[batch.bias.rows, batch.bias.token_ids] += batch.bias.values
    if batch.mask is not None:
        scores[~allowed_tokens(batch.mask, scores.shape[1])] = -np.inf
    if batch.penalties is not None:
        rows, token_ids = batch.penalties.rows, batch.penalties.token_ids
        counts = batch.penalties.counts
        seen = scores[rows, token_ids]
        repetition = batch.penalties.repetition[rows]
        seen = np.where(seen > 0, seen / repetition, seen * repetition)
        seen -= batch.penalties.frequency[rows] * counts
        seen -= batch.penalties.presence[rows] * (counts > 0)
        scores[rows, token_ids] = seen
    return scores


def allowed_tokens(mask: npt.NDArray[np.uint32], vocab_size: int) -> npt.NDArray[np.bool_]:
    """[S, V] a token mask, one bool a token."""
    octets = np.ascontiguousarray(mask, dtype="<u4").view(np.uint8)
    bits = np.unpackbits(octets, axis=1, count=vocab_size, bitorder="little")
    return bits.astype(np.bool_)


def kept_weights(scores: Float32, top_k: int, top_p: float, min_p: float) -> Float64:
    """[V] probabilities up to a common factor, 0 for tokens dropped.

    min_p keeps tokens at least that fraction as likely as the likeliest; top_k those at least as
    likely as the k-th; top_p the smallest set of likeliest tokens whose mass reaches its share of
    what is left by then, with whatever is as likely as the last of them."""
    weights: Float64 = np.exp((scores - scores.max()).astype(np.float64))
    if min_p > 0:
        weights[weights < min_p] = 0
    if 0 < top_k < len(weights):
        kth = np.partition(scores, -top_k)[-top_k]
        weights[scores < kth] = 0
    if top_p < 1:
        likely = np.sort(weights[weights > 0])[::-1]
        mass = np.cumsum(likely)
        last = min(int(np.searchsorted(mass, top_p * mass[-1])), len(likely) - 1)
        weights[weights < likely[last]] = 0
    return weights


def logprobs_of(logits: Float32, targets: Int32, num_alternatives: int) -> Logprobs:
    """Logprobs of one target a row of raw ``logits`` [N, V], with the likeliest alternatives,
    the lowest id first among equals."""
    num_rows, vocab_size = logits.shape
    num_alternatives = min(num_alternatives, vocab_size)
    own = logits[np.arange(num_rows), targets]
    token_ids = np.empty((num_rows, num_alternatives + 1), np.int32)
    token_ids[:, 0] = targets
    for row in range(num_rows):
        token_ids[row, 1:] = _likeliest(logits[row], num_alternatives)
    highest = logits.max(axis=1, keepdims=True)
    total = np.exp((logits - highest).astype(np.float64)).sum(axis=1, keepdims=True)
    chosen = np.take_along_axis(logits, token_ids.astype(np.int64), axis=1)
    return Logprobs(
        token_ids=token_ids,
        logprobs=(chosen - highest - np.log(total)).astype(np.float32),
        ranks=(1 + (logits > own[:, None]).sum(axis=1)).astype(np.int32),
    )


def _likeliest(logits: Float32, count: int) -> npt.NDArray[np.int64]:
    if count == 0:
        return np.empty(0, np.int64)
    kth = np.partition(logits, -count)[-count]
    found = np.flatnonzero(logits >= kth)
    return found[np.argsort(-logits[found], kind="stable")][:count]
