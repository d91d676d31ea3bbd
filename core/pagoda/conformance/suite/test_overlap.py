"""Steps in flight: a step is planned with PENDING tokens while the one before still runs."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest

from pagoda.conformance.driver import Driver
from pagoda.conformance.feeder import Feeder
from pagoda.conformance.subject import Opened
from pagoda.platform.batch import PENDING, ScheduledBatch
from pagoda.platform.runner import StepHandle

Rng = np.random.Generator
pytestmark = pytest.mark.needs("overlap")


def test_pending_is_the_token_sampled_before(opened: Opened, rng: Rng) -> None:
    """Two steps in flight; rows change places in between, and one slot pauses."""
    feeder = Feeder(opened, rng)
    slots = feeder.slots(3)
    known = dict(zip(slots, feeder.prompts([6, 17, 3]), strict=True))
    flying: deque[tuple[ScheduledBatch, StepHandle]] = deque()
    before: list[int] = []
    for step in range(7):
        order = rng.permutation(slots).tolist()
        if step == 3 and len(order) > 1:
            order.pop()
        batch = feeder.batch({s: [PENDING] if s in before else known[s] for s in order})
        flying.append((batch, opened.runner.submit(batch)))
        before = order
        if len(flying) > 1:
            known.update(_collect(feeder, *flying.popleft()))
    _collect(feeder, *flying.popleft())
    feeder.judge("Tokens were PENDING: each is what its slot, not its row, sampled last.")


def test_results_belong_to_their_steps(opened: Opened, rng: Rng) -> None:
    """Handles may be asked late and more than one at a time; each knows its own step."""
    feeder = Feeder(opened, rng)
    prompts = feeder.prompts([5, 9])
    if len(prompts) < 2:
        pytest.skip("max_requests is 1")
    first = feeder.batch({0: prompts[0]})
    second = feeder.batch({1: prompts[1]})
    handles = [opened.runner.submit(first), opened.runner.submit(second)]
    feeder.keep(first, handles[0])
    feeder.keep(second, handles[1])
    feeder.judge("Two steps were in flight: a handle's result is that of its own step.")


def test_overlapped_generation(opened: Opened, rng: Rng) -> None:
    """The engine with all steps in flight, and with one at a time: the same answers."""
    prompts = opened.prompts(rng, [4, 19, 33, 7, 50])
    for in_flight in (1, opened.limits.steps_in_flight):
        driver = Driver(opened, opened.engine(steps_in_flight=in_flight))
        for count, prompt in enumerate(prompts, start=3):
            driver.add(prompt, count)
        driver.finish()
        driver.judge(f"{in_flight} steps were in flight.")


def _collect(feeder: Feeder, batch: ScheduledBatch, handle: StepHandle) -> dict[int, list[int]]:
    """Keep a step's logits, put its tokens where PENDING stands; the tokens by slot."""
    result = feeder.keep(batch, handle)
    assert result.logits is not None
    found = {}
    for row, token in enumerate(result.token_ids.tolist()):
        slot = int(batch.slots[batch.sample_rows[row]])
        short = result.logits[row].max() - result.logits[row][token]
        assert short <= 0, (
            f"slot {slot}: token {token} is {short:.2g} below the best of the logits that came"
            " with it: a handle's token_ids and logits are of different steps or rows"
        )
        found[slot] = [token]
        if PENDING in feeder.lives[slot].tokens:
            feeder.learn(slot, token)
    return found
