"""One step at a time, built by hand: every row of logits against the reference."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from pagoda.conformance.feeder import Feeder, as_int32, difference
from pagoda.conformance.subject import Opened
from pagoda.platform.batch import ScheduledBatch
from pagoda.platform.errors import PagodaError
from pagoda.platform.types import Feature

Rng = np.random.Generator


@pytest.mark.models("all")
def test_a_prompt(opened: Opened, rng: Rng) -> None:
    """Prefill from nothing, one request."""
    feeder = Feeder(opened, rng)
    feeder.run({0: feeder.prompts([37])[0]})
    feeder.judge()


@pytest.mark.models("all")
def test_decoding(opened: Opened, rng: Rng) -> None:
    """A prompt, then a token a step over the edges of blocks; far past a window."""
    feeder = Feeder(opened, rng)
    slots = feeder.slots(2)
    lengths = [max(1, min(opened.block_size, 64) - 2), 30]
    feeder.run(dict(zip(slots, feeder.prompts(lengths), strict=True)))
    for token in rng.integers(3, opened.model.vocab_size - 1, 8).tolist():
        feeder.run({slot: [token + row] for row, slot in enumerate(slots[::-1])})
    feeder.judge("Prefill alone is what test_a_prompt checks.")


@pytest.mark.models("all")
def test_ragged_prompts(opened: Opened, rng: Rng) -> None:
    """Lengths around the edges of a block, in one step; slots in no order."""
    size = min(opened.block_size, 16)
    feeder = Feeder(opened, rng)
    lengths = [size, 1, size + 1, 2, max(1, size - 1)]
    prompts = feeder.prompts(lengths)
    feeder.run(dict(zip(feeder.slots(len(prompts)), prompts, strict=True)))
    feeder.judge("The rows' lengths differ: padding or neighbours may be seen.")


def test_a_single_token(opened: Opened, rng: Rng) -> None:
    feeder = Feeder(opened, rng)
    feeder.run({feeder.slots(1)[0]: [int(rng.integers(3, opened.model.vocab_size))]})
    feeder.judge()


@pytest.mark.needs("chunked_prefill")
@pytest.mark.models("all")
def test_chunks_of_a_prompt(opened: Opened, rng: Rng) -> None:
    """Portions of any size, each after the context that the former left."""
    feeder = Feeder(opened, rng)
    (prompt,) = opened.prompts(rng, [90])
    size, (slot,) = opened.block_size, feeder.slots(1)
    sizes = [min(n, opened.limits.max_tokens) for n in (1, 2, size - 1, size, 3, size + 1, 90, 90)]
    for start, end in _portions(sizes, len(prompt)):
        feeder.run({slot: prompt[start:end]})
    feeder.judge("The same prompt in one portion is what test_a_prompt checks.")


@pytest.mark.needs("chunked_prefill", "mixed")
@pytest.mark.models("all")
def test_prefill_beside_decodes(opened: Opened, rng: Rng) -> None:
    """Prompts, chunks and decodes of different requests in one step, in any order."""
    feeder = Feeder(opened, rng)
    if opened.limits.max_requests < 3 or opened.limits.max_tokens < 33:
        pytest.skip("three requests or 33 tokens do not fit a step")
    prompts = opened.prompts(rng, [33, 17, 40])
    first, second, third = feeder.slots(3)
    feeder.run({first: prompts[0]})
    for step in range(4):
        token = int(rng.integers(3, opened.model.vocab_size))
        parts = {third: prompts[2][10 * step : 10 * step + 10], first: [token]}
        if step >= 2:
            parts[second] = prompts[1] if step == 2 else [token]
        order = rng.permutation(list(parts)).tolist()
        feeder.run({slot: parts[slot] for slot in order})
    feeder.judge("Each of these alone is what the other tests of this file check.")


@pytest.mark.needs("chunked_prefill")
def test_a_step_may_sample_nothing(opened: Opened, rng: Rng) -> None:
    feeder = Feeder(opened, rng)
    prompts = dict(enumerate(feeder.prompts([20, 10])))
    half = {slot: len(prompt) // 2 for slot, prompt in prompts.items()}
    result = feeder.run({slot: prompts[slot][: half[slot]] for slot in prompts}, sample=[])
    assert len(result.token_ids) == 0
    feeder.run({slot: prompts[slot][half[slot] :] for slot in prompts})
    feeder.judge("The step before sampled nothing.")


@pytest.mark.needs("chunked_prefill")
def test_some_rows_are_sampled(opened: Opened, rng: Rng) -> None:
    """sample_rows picks requests, not tokens; the answer has their order."""
    feeder = Feeder(opened, rng)
    prompts = feeder.prompts([7, 3, 12, 5])
    if len(prompts) < 2:
        pytest.skip("max_requests is 1")
    result = feeder.run(dict(enumerate(prompts)), sample=range(1, len(prompts), 2))
    assert result.logits is not None
    assert result.token_ids.tolist() == result.logits.argmax(axis=1).tolist(), (
        "token_ids are not the greedy choices of the logits that came with them"
    )
    feeder.judge("Every other row was to be sampled, not the first.")


def test_as_much_as_was_agreed(opened: Opened, rng: Rng) -> None:
    """max_requests at once, then max_tokens at once, then a sequence of max_model_len."""
    feeder, limits = Feeder(opened, rng), opened.limits
    most = min(limits.max_requests, limits.max_tokens)
    feeder.run({slot: [int(rng.integers(3, 99))] for slot in range(most)})
    for slot in range(most):
        feeder.retire(slot)
    each = limits.max_tokens // 2
    half, rest = (rng.integers(3, 99, count).tolist() for count in (each, limits.max_tokens - each))
    if max(each, len(rest)) < opened.max_len and limits.max_requests > 1:
        feeder.run({0: half, 1: rest})
        feeder.retire(0)
        feeder.retire(1)
    longest = rng.integers(3, 99, opened.max_len).tolist()
    step = limits.max_tokens if limits.chunked_prefill else opened.max_len
    for start in range(0, opened.max_len, step):
        feeder.run({0: longest[start : start + step]})
    feeder.judge("These steps are exactly as large as RunnerConfig allows.")


@pytest.mark.parametrize("what", ["tokens", "requests", "positions"])
def test_more_than_was_agreed_is_refused(opened: Opened, rng: Rng, what: str) -> None:
    """submit, or result at the latest, raises PagodaError; the runner stays usable."""
    feeder, limits = Feeder(opened, rng), opened.limits
    batch = {
        "tokens": lambda: _too_many_tokens(feeder),
        "requests": lambda: feeder.batch({slot: [5] for slot in range(limits.max_requests + 1)}),
        "positions": lambda: _too_long(feeder),
    }[what]()
    try:
        opened.runner.submit(batch).result()
    except PagodaError:
        pass
    except Exception as error:
        pytest.fail(
            f"a step with too many {what} raised {error!r}; PagodaError was to say what is wrong"
        )
    else:
        pytest.fail(
            f"a step with too many {what} was accepted: the error is swallowed or unnoticed"
        )
    after = Feeder(opened, rng)
    after.run({0: after.prompts([9])[0]})
    after.judge("The step before was refused, and must have left nothing behind.")


def test_blocks_of_others_are_not_seen(opened: Opened, rng: Rng) -> None:
    """Every block has been used before; the tails of blocks hold what others left there."""
    feeder = Feeder(opened, rng)
    _use_all_blocks(feeder)
    feeder.run(dict(enumerate(feeder.prompts([3, opened.block_size + 2, 1]))))
    for _ in range(3):
        feeder.run({slot: [int(rng.integers(3, 99))] for slot in feeder.lives})
    feeder.judge(
        "All blocks were used before by other requests: what they left beyond a request's last"
        " token was read, or an old block table was used."
    )


def test_what_nobody_wrote_is_not_read(opened: Opened, rng: Rng) -> None:
    """The cache is NaN before the step; a masked NaN is still one."""
    poison = opened.subject.profile.poison_cache
    if poison is None:
        pytest.skip("Profile.poison_cache is not given")
    poison(opened.runner)
    feeder = Feeder(opened, rng)
    feeder.run(dict(enumerate(feeder.prompts([opened.block_size + 1, 2, 11]))))
    feeder.run({slot: [7] for slot in feeder.lives})
    feeder.judge("The cache held NaN wherever nobody had written.")


def test_a_slot_begins_a_new_life(opened: Opened, rng: Rng) -> None:
    """``admitted``: the slot's former request is forgotten, its block table above all.  Its blocks
    are another's by the time the slot is used again."""
    feeder = Feeder(opened, rng)
    slot, *heirs = feeder.slots(2)
    for length in (30, 12, 45):
        feeder.run({slot: feeder.prompts([length])[0]})
        feeder.run({slot: [int(rng.integers(3, 99))]})
        feeder.retire(slot)
        for heir in heirs:
            if heir in feeder.lives:
                feeder.retire(heir)
            feeder.run({heir: feeder.prompts([length])[0]})
    feeder.run({slot: feeder.prompts([20])[0]})
    feeder.run({heir: [9] for heir in [*heirs, slot]})
    feeder.judge("The slot had earlier lives; admitted was set when each began.")


def test_every_block_in_use(opened: Opened, rng: Rng) -> None:
    """All slots hold a share of the cache, scattered; nobody writes over anybody."""
    feeder, limits = Feeder(opened, rng), opened.limits
    most = min(limits.max_tokens, opened.max_len) - 2
    share = opened.num_blocks // limits.max_requests * opened.block_size - 1
    for slot in range(limits.max_requests):
        feeder.run({slot: rng.integers(3, 99, min(most, share)).tolist()})
    for slot in range(limits.max_requests):
        feeder.run({slot: [7]})
    feeder.judge("The cache was full: a block not in a request's table was written or read.")


def test_rows_may_change_places(opened: Opened, rng: Rng) -> None:
    """A slot is who a row is; its place in the batch changes from step to step."""
    feeder = Feeder(opened, rng)
    slots = feeder.slots(4)
    feeder.run(dict(zip(slots, feeder.prompts([5, 9, 2, 14]), strict=True)))
    for _ in range(4):
        order = rng.permutation(slots)[: rng.integers(1, len(slots) + 1)].tolist()
        feeder.run({slot: [int(rng.integers(3, 99))] for slot in order})
    feeder.judge("Rows changed places between steps, and some slots paused.")


def test_physical_order_of_blocks_is_invisible(opened: Opened, rng: Rng) -> None:
    """The same prompt in other blocks: the same logits, to rounding."""
    (prompt,) = Feeder(opened, rng).prompts([60])
    rows = []
    for _ in range(3):
        feeder = Feeder(opened, rng)
        rows.append(feeder.run({0: prompt}).logits)
        feeder.judge("The blocks lie in another order.")
    assert rows[0] is not None and rows[1] is not None
    assert difference(rows[0][0], rows[1][0]) <= opened.tolerance


@pytest.mark.needs(Feature.BLOCK_COPY)
def test_blocks_are_copied_before_the_step_writes(opened: Opened, rng: Rng) -> None:
    """Copy on write: a fork takes a copy of the last block, then both write into their own."""
    feeder, size = Feeder(opened, rng), opened.block_size
    if opened.limits.max_requests < 2:
        pytest.skip("max_requests is 1")
    first, second = feeder.slots(2)
    (prompt,) = feeder.prompts([size + max(1, size // 2) if size <= 32 else 11])
    feeder.run({first: prompt})
    feeder.run({second: [9, 8, 7]})  # leaves its mark in the block that the copy goes to
    feeder.retire(second)
    original = feeder.lives[first]
    batch = feeder.batch({first: [11], second: [12]})
    fork = feeder.lives[second]
    copied, shared = len(prompt) // size, original.blocks[: len(prompt) // size]
    fork.blocks = [*shared, fork.blocks[0]]
    fork.tokens, fork.starts = [*prompt, 12], [len(prompt)]
    pairs = np.array([[original.blocks[copied], fork.blocks[copied]]], np.int32)
    batch = dataclasses.replace(
        batch,
        context_lens=as_int32([len(prompt), len(prompt)]),
        block_tables=(feeder._table([original, fork]),),
        block_copies=pairs,
    )
    feeder.keep(batch, opened.runner.submit(batch))
    feeder.judge("block_copies names a block to copy before anything of the step is written.")


def _portions(sizes: list[int], total: int) -> list[tuple[int, int]]:
    edges = [0]
    for size in sizes:
        edges.append(min(edges[-1] + size, total))
    return [(a, b) for a, b in itertools.pairwise(edges) if a < b]


def _too_many_tokens(feeder: Feeder) -> ScheduledBatch:
    limits, most = feeder.opened.limits, feeder.opened.max_len
    parts, left = {}, limits.max_tokens + 1
    for slot in range(limits.max_requests):
        parts[slot] = [5] * min(most, left - (limits.max_requests - 1 - slot))
        left -= len(parts[slot])
        if left <= 0:
            break
    if left > 0:
        pytest.skip("max_tokens cannot be exceeded by sequences of max_model_len")
    return feeder.batch({slot: tokens for slot, tokens in parts.items() if tokens})


def _too_long(feeder: Feeder) -> ScheduledBatch:
    """A decode at position max_model_len, with blocks for it."""
    opened = feeder.opened
    batch = feeder.batch({0: [5]})
    needed = opened.max_len // opened.block_size + 1
    life = feeder.lives[0]
    while len(life.blocks) < needed:
        life.blocks.append(feeder.free.pop())
    return dataclasses.replace(
        batch,
        context_lens=as_int32([opened.max_len]),
        block_tables=(feeder._table([life]),),
    )


def _use_all_blocks(feeder: Feeder) -> None:
    """Write something into every position of every block."""
    opened = feeder.opened
    blocks_a_step = max(1, min(opened.limits.max_tokens, opened.max_len) // opened.block_size)
    while feeder.free:
        count = min(blocks_a_step, len(feeder.free)) * opened.block_size
        if count <= opened.limits.max_tokens:
            feeder.run({7 % opened.limits.max_requests: feeder.rng.integers(3, 99, count).tolist()})
        else:
            break
        life = feeder.lives.pop(7 % opened.limits.max_requests)
        feeder.finished.append(life)
    feeder.finished.clear()
    feeder.free = feeder.rng.permutation(opened.num_blocks).tolist()
