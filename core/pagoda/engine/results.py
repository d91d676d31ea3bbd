"""Log-probability arrays of a step, cut up by request."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pagoda.engine.messages import EngineOutput, PositionLogprobs
from pagoda.platform.runner import Logprobs
from pagoda.scheduler.request import Request, Status
from pagoda.scheduler.scheduler import Plan


def collect_logprobs(
    found: Logprobs,
    rows: np.ndarray,
    requests: Sequence[Request],
    outputs: Sequence[EngineOutput],
) -> None:
    """Hand each request that asked the log-probabilities of its new token.  ``rows`` [S] are the
    batch's sampled rows that ``requests`` and ``outputs`` stand for."""
    for row, request, output in zip(rows.tolist(), requests, outputs, strict=True):
        wanted = request.params.logprobs
        if wanted is not None:
            output.logprobs = [_position(found, row, wanted)]


def collect_scores(plan: Plan, found: Logprobs, outputs: list[EngineOutput]) -> None:
    """Hand each scored request the log-probabilities of the prompt tokens run in this step."""
    by_id = {output.request_id: output for output in outputs}
    start = 0
    for request, count in plan.scored:
        wanted = request.params.prompt_logprobs
        output = by_id.get(request.id)
        if output is None and request.status is Status.RUNNING:
            output = EngineOutput(request_id=request.id)
            outputs.append(output)
        if output is not None:
            scores = [_position(found, row, wanted) for row in range(start, start + count)]
            output.prompt_logprobs = scores
            request.num_scored += count
        start += count


def _position(found: Logprobs, row: int, wanted: int | None) -> PositionLogprobs:
    """One row, with ``wanted`` alternatives; -1 means all there are."""
    width = None if wanted is None or wanted < 0 else wanted + 1
    return PositionLogprobs(
        token_ids=found.token_ids[row, :width].tolist(),
        logprobs=found.logprobs[row, :width].tolist(),
        rank=int(found.ranks[row]),
    )
