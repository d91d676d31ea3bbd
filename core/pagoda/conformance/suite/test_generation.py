"""Whole requests through the engine: tokens do not depend on how the work was cut up."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pagoda.conformance.driver import Driver
from pagoda.conformance.subject import Opened, Subject
from pagoda.llm import LLM
from pagoda.platform.types import Feature
from pagoda.sampling.params import SamplingParams

Rng = np.random.Generator
LENGTHS = [1, 2, 7, 15, 16, 17, 33, 48]


@pytest.mark.models("all")
def test_alone(opened: Opened, rng: Rng) -> None:
    driver = Driver(opened)
    driver.add(opened.prompts(rng, [23])[0], count=40)
    driver.finish()
    driver.judge("The request ran alone.")


@pytest.mark.models("all")
def test_in_company(opened: Opened, rng: Rng) -> None:
    """More requests than fit at once, of all lengths, with outputs of all lengths."""
    driver = Driver(opened)
    for count, prompt in enumerate(opened.prompts(rng, [*LENGTHS, *LENGTHS[::-1]]), start=1):
        driver.add(prompt, count)
    driver.finish()
    driver.judge("The requests ran together.")


def test_alone_or_in_company_is_the_same(opened: Opened, rng: Rng) -> None:
    """The neighbours' number and lengths change nothing, to rounding."""
    prompts = opened.prompts(rng, [19, *LENGTHS])
    for others in ([], prompts[1:3], prompts[1:]):
        driver = Driver(opened)
        driver.add(prompts[0], 8)
        for prompt in others:
            driver.add(prompt, 8)
        driver.finish()
        driver.judge(f"{len(others)} neighbours ran beside the first request.")


@pytest.mark.needs("chunked_prefill")
@pytest.mark.parametrize("budget", [1, 5, 16, 64])
def test_chunks_of_any_size(opened: Opened, rng: Rng, budget: int) -> None:
    driver = Driver(opened, opened.engine(max_tokens=min(budget, opened.limits.max_tokens)))
    for prompt in opened.prompts(rng, [33, 12] if budget < 16 else [90, 17, 40]):
        driver.add(prompt)
    driver.finish()
    driver.judge(f"Steps had {budget} tokens at most.")


def test_batches_of_every_size(opened: Opened, rng: Rng) -> None:
    """1, 2, 3, ... requests: the edges of padded and recorded batch sizes are among them."""
    for count in range(1, opened.limits.max_requests + 1):
        driver = Driver(opened, opened.engine(max_requests=count))
        for prompt in opened.prompts(rng, [3] * count):
            driver.add(prompt, 3)
        driver.finish()
        driver.judge(f"{count} requests ran at once.")


def test_requests_come_and_go(opened: Opened, rng: Rng) -> None:
    """One joins at each step, each ends after another number of tokens."""
    driver = Driver(opened)
    for count, prompt in zip([9, 1, 4, 2, 7, 3], opened.prompts(rng, LENGTHS), strict=False):
        driver.add(prompt, count)
        driver.step()
    driver.finish()
    driver.judge("Requests joined and left between steps.")


def test_preempted_requests_resume(opened: Opened, rng: Rng) -> None:
    """Blocks for all prompts and not for what follows: some are run again from the start."""
    size = opened.block_size
    if 4 * size > opened.max_len:
        pytest.skip(f"with blocks of {size} tokens none runs out")
    driver = Driver(opened, opened.engine(num_blocks=7, prefix_caching=False))
    for prompt in opened.prompts(rng, [size - 2] * 3):
        driver.add(prompt, 3 * size)
    driver.finish()
    num_preemptions = driver.engine.stats().num_preemptions
    assert num_preemptions, "the test meant to run out of blocks"
    driver.judge("Some requests were preempted and run again.")


@pytest.mark.needs("chunked_prefill")
@pytest.mark.models("all")
def test_a_shared_prefix_is_reused(opened: Opened, rng: Rng) -> None:
    """Later requests start from blocks that an earlier one filled."""
    size = opened.block_size
    shared = min(3, (opened.max_len // 2) // size)
    if not shared:
        pytest.skip(f"a block of {size} tokens is never full")
    (prefix,) = opened.prompts(rng, [shared * size])
    driver = Driver(opened)
    driver.add([*prefix, 5])
    driver.finish()
    later = [driver.add([*prefix, token]) for token in (6, 7)]
    later.append(driver.add(prefix))
    driver.finish()
    driver.judge("The prompt's first blocks were those of an earlier request.")
    found = [driver.answers[name].num_cached_tokens for name in later]
    assert found == [shared * size, shared * size, (shared - 1) * size], (
        f"cached tokens of the later requests: {found}, with {shared} shared blocks of {size}"
    )


@pytest.mark.needs(Feature.BLOCK_COPY)
def test_forks_share_their_prompt(opened: Opened, rng: Rng) -> None:
    """n > 1: the later ones take over the first one's blocks and copy the last."""
    for length in (opened.block_size + 3, 9):
        driver = Driver(opened)
        (prompt,) = opened.prompts(rng, [length])
        first = driver.add(prompt, 12)
        forks = [driver.add(prompt, 12, fork_of=first) for _ in range(2)]
        driver.finish()
        assert all(driver.answers[name].num_cached_tokens for name in forks), (
            "the forks were to share their prompt's blocks with the first request"
        )
        driver.judge("A fork began with the blocks of another, the last one a copy.")


def test_an_abort_frees_everything(opened: Opened, rng: Rng) -> None:
    driver = Driver(opened)
    names = [driver.add(prompt, 12) for prompt in opened.prompts(rng, LENGTHS)]
    for _ in range(3):
        driver.step()
    driver.engine.abort(names[::2])
    driver.add(opened.prompts(rng, [21])[0])
    driver.finish()
    driver.judge("Every other request was aborted in the midst.")


def test_through_the_public_api(subject: Subject, rng: Rng) -> None:
    """LLM on the folder, text in and out, and the tokens of token ids."""
    opened = subject.shared(subject.families[0], subject.exact)
    settings = {"max_model_len": opened.max_len, "max_num_seqs": 4, "show_progress": False}
    with LLM(
        str(opened.model.folder), device=subject.device, dtype=opened.variant.dtype, **settings
    ) as llm:
        ids = [*opened.prompts(rng, [11, 30])]
        params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
        outputs = llm.generate(ids, params, use_tqdm=False)
        text = llm.generate("hello", params, use_tqdm=False)[0]
    driver = Driver(opened)
    for prompt, output in itertools.chain(
        zip(ids, outputs, strict=True), [(text.prompt_token_ids, text)]
    ):
        name = driver.add(prompt)
        driver.answers[name].token_ids = output.outputs[0].token_ids
    driver.judge("The tokens came through pagoda.LLM.")


@pytest.mark.full
@pytest.mark.parametrize("size", [8, 16, 32, 64, 128])
def test_block_sizes(subject: Subject, rng: Rng, size: int) -> None:
    declared = subject.capabilities.block_sizes
    if declared and size not in declared:
        pytest.skip(f"block sizes are {', '.join(map(str, declared))}")
    opened = subject.open(subject.families[0], subject.exact, block_size=size)
    try:
        assert opened.block_size == size, f"block_size={size} gave blocks of {opened.block_size}"
        driver = Driver(opened)
        for prompt in opened.prompts(rng, [*LENGTHS, 100]):
            driver.add(prompt)
        driver.finish()
        driver.judge(f"Blocks held {size} tokens.")
    finally:
        opened.runner.close()
