"""Steps beyond what was agreed are refused on the host, before anything is started."""

from __future__ import annotations

import numpy as np

from pagoda.platform import PENDING, PagodaError, RunnerConfig, ScheduledBatch


class StepChecks:
    """Knows the limits, and which slots have a token to continue from."""

    def __init__(self, config: RunnerConfig):
        self.config = config
        self._has_sampled = np.zeros(config.max_requests, np.bool_)

    def check(self, batch: ScheduledBatch) -> None:
        config = self.config
        for what, found, most in (
            ("tokens", len(batch.token_ids), config.max_tokens),
            ("requests", len(batch.slots), config.max_requests),
            ("tokens in a sequence", int(batch.seq_lens.max(initial=0)), config.max_model_len),
        ):
            if found > most:
                raise PagodaError(f"a step with {found} {what}, the limit is {most}")
        self._has_sampled[batch.slots[batch.admitted]] = False
        pending = batch.token_ids[batch.query_start[1:] - 1] == PENDING
        if not self._has_sampled[batch.slots[pending]].all():
            raise PagodaError("a PENDING token in a slot that has sampled nothing")
        self._has_sampled[batch.slots[batch.sample_rows]] = True
