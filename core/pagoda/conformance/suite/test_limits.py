"""The scheduler's side of StepLimits: what the platform does not take, the engine never sends."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from pagoda.conformance.driver import Driver, Watched
from pagoda.conformance.feeder import Feeder
from pagoda.conformance.subject import Opened, Subject
from pagoda.platform.batch import ScheduledBatch
from pagoda.platform.types import StepLimits

Rng = np.random.Generator


def test_every_step_is_within_the_limits(opened: Opened, rng: Rng) -> None:
    """As declared, and narrowed: a platform that takes more takes less too."""
    offered = opened.limits
    for mixed, chunked in itertools.product((True, False), repeat=2):
        if (mixed and not offered.mixed) or (chunked and not offered.chunked_prefill):
            continue
        limits = dataclasses.replace(
            offered,
            mixed=mixed,
            chunked_prefill=chunked,
            max_requests=min(3, offered.max_requests),
        )
        watched = Watched(opened.runner)
        names = ("mixed", "chunked_prefill", "max_requests")
        narrowed = {name: getattr(limits, name) for name in names}
        driver = Driver(opened, opened.engine(watched, **narrowed))
        longest = opened.limits.max_tokens - 6  # an answered prompt that is preempted must fit too
        for prompt in opened.prompts(rng, [min(n, longest) for n in (40, 3, 17, 60, 25)]):
            driver.add(prompt, 5)
            driver.step()
        driver.finish()
        for batch in watched.batches:
            check_step(batch, limits)
        driver.judge(f"mixed={mixed}, chunked_prefill={chunked}.")


def check_step(batch: ScheduledBatch, limits: StepLimits) -> None:
    assert len(batch.token_ids) <= limits.max_tokens
    assert len(batch.slots) <= limits.max_requests
    prefill = batch.query_lens > 1
    if not limits.mixed:
        decode = (batch.context_lens > 0) & ~prefill
        assert not (decode.any() and (batch.context_lens == 0).any()), "prefill beside decodes"
    if not limits.chunked_prefill:
        assert not batch.context_lens[prefill].any(), "a prompt's portion after a context"


@pytest.mark.full
def test_the_declared_limits_hold(subject: Subject, rng: Rng) -> None:
    """A step with every token and every request that the platform declared."""
    declared = subject.capabilities.limits
    opened = subject.open(
        subject.families[0],
        subject.exact,
        max_num_batched_tokens=declared.max_tokens,
        max_num_seqs=declared.max_requests,
        num_blocks=None,
    )
    try:
        feeder = Feeder(opened, rng)
        limits = opened.limits
        each = min(limits.max_tokens // limits.max_requests, opened.max_len)
        room = opened.num_blocks // -(-each // opened.block_size)
        rows = min(limits.max_requests, room)
        feeder.run({slot: rng.integers(3, 99, each).tolist() for slot in range(rows)})
        feeder.judge(f"{rows} requests of {each} tokens ran in one step.")
    finally:
        opened.runner.close()
