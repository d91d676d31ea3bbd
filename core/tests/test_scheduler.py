"""Scheduler and engine against a runner that answers with a hash of what its cache holds."""

from __future__ import annotations

import random

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from token_runner import VOCAB, TokenRunner, expected

from pagoda.engine.core import EngineCore, EngineShape
from pagoda.engine.messages import EngineOutputs, EngineRequest
from pagoda.platform.types import StepLimits
from pagoda.sampling.params import SamplingParams

MAX_LEN = 24


def make_engine(
    num_blocks: int = 16, block_size: int = 4, by_priority: bool = False, **limits: object
) -> EngineCore:
    offered = StepLimits(**{"max_tokens": 16, "max_requests": 4, **limits})  # type: ignore[arg-type]
    runner = TokenRunner(offered, block_size)
    runner.init_kv_cache(num_blocks)
    shape = EngineShape(
        limits=offered,
        num_blocks=num_blocks,
        block_size=block_size,
        max_model_len=min(MAX_LEN, num_blocks * block_size),
        vocab_size=VOCAB,
        by_priority=by_priority,
    )
    return EngineCore(runner, shape)


def request(id: str, prompt: list[int], max_tokens: int, **more: object) -> EngineRequest:
    params = more.pop("params", None) or SamplingParams(
        temperature=0, max_tokens=max_tokens, ignore_eos=True
    )
    return EngineRequest(request_id=id, prompt_token_ids=prompt, params=params, **more)  # type: ignore[arg-type]


class Answers:
    """Collects an engine's outputs by request."""

    def __init__(self) -> None:
        self.tokens: dict[str, list[int]] = {}
        self.finished: dict[str, str] = {}

    def take(self, outputs: EngineOutputs) -> None:
        for output in outputs.outputs:
            assert output.request_id not in self.finished
            self.tokens.setdefault(output.request_id, []).extend(output.token_ids)
            if output.finish_reason:
                self.finished[output.request_id] = output.finish_reason


def run(engine: EngineCore, *requests: EngineRequest) -> Answers:
    answers = Answers()
    for message in requests:
        engine.add(message)
    while engine.has_work:
        answers.take(engine.step())
    return answers


class Engines(RuleBasedStateMachine):
    """Random programs of add, fork, step and abort on tiny pools: every answer is right, every
    block comes home."""

    @initialize(
        num_blocks=st.integers(3, 12),
        block_size=st.sampled_from([1, 2, 4]),
        max_tokens=st.sampled_from([4, 5, 16]),
        max_requests=st.integers(1, 4),
        mixed=st.booleans(),
        steps_in_flight=st.sampled_from([1, 2, 3]),
    )
    def open(self, num_blocks: int, block_size: int, **limits: object) -> None:
        self.engine = make_engine(num_blocks, block_size, **limits)
        self.room = self.engine.shape.max_model_len
        self.answers = Answers()
        self.wanted: dict[str, tuple[list[int], int]] = {}
        self.aborted: set[str] = set()

    @rule(
        prompt=st.lists(st.integers(0, 1), min_size=1, max_size=MAX_LEN),
        count=st.integers(1, 12),
        forks=st.integers(0, 2),
        priority=st.integers(0, 1),
    )
    def add(self, prompt: list[int], count: int, forks: int, priority: int) -> None:
        prompt = prompt[: self.room - 1]
        first = str(len(self.wanted))
        for index in range(forks + 1):
            id = f"{first}#{index}"
            self.wanted[id] = prompt, min(count, self.room - len(prompt))
            parent = f"{first}#0" if index else None
            self.engine.add(request(id, prompt, count, fork_of=parent, priority=priority))

    @rule(count=st.integers(1, 6))
    def step(self, count: int) -> None:
        for _ in range(count):
            self.answers.take(self.engine.step())

    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        if self.wanted:
            id = data.draw(st.sampled_from(sorted(self.wanted)))
            if id not in self.answers.finished:
                self.aborted.add(id)
            self.engine.abort([id])

    @invariant()
    def blocks_are_accounted_for(self) -> None:
        if not hasattr(self, "engine"):
            return
        scheduler = self.engine.scheduler
        held = [block for r in scheduler.running for block in r.blocks]
        assert [held.count(b) for b in range(scheduler.pool.num_blocks)] == scheduler.pool.refs
        assert all(not r.blocks and r.slot < 0 for r in scheduler.waiting)
        slots = [r.slot for r in scheduler.running]
        assert len(set(slots)) == len(slots)
        assert scheduler.table.num_free == self.engine.shape.limits.max_requests - len(slots)

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        for _ in range(5000):
            if not self.engine.has_work:
                break
            self.answers.take(self.engine.step())
        assert not self.engine.has_work, "some request never finishes"
        assert self.engine.scheduler.pool.num_free == self.engine.scheduler.pool.num_blocks
        for id, (prompt, count) in self.wanted.items():
            tokens = self.answers.tokens.get(id, [])
            if id in self.aborted:
                assert tokens == expected(prompt, len(tokens))
            else:
                assert self.answers.finished[id] == "length"
                assert tokens == expected(prompt, count)


TestEngines = Engines.TestCase
# No shrinking by default: a failing program of this size takes minutes to shrink.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
TestEngines.settings = settings(
    max_examples=300, stateful_step_count=25, deadline=None, phases=PHASES, print_blob=True
)


@pytest.mark.parametrize("steps_in_flight", [1, 2])
def test_preemption_recomputes_the_same_tokens(steps_in_flight: int) -> None:
    engine = make_engine(num_blocks=7, max_requests=3, steps_in_flight=steps_in_flight)
    prompts = [[i] * 5 for i in range(3)]
    answers = run(engine, *(request(str(i), p, 15) for i, p in enumerate(prompts)))
    assert engine.scheduler.num_preemptions > 0
    assert answers.tokens == {str(i): expected(p, 15) for i, p in enumerate(prompts)}


def test_a_cached_prefix_is_never_run_again() -> None:
    engine = make_engine()
    prompt = list(range(13))
    run(engine, request("a", prompt, 2))
    before = engine.runner.num_tokens_run  # type: ignore[attr-defined]
    answers = run(engine, request("b", prompt, 1))
    assert engine.runner.num_tokens_run - before == 1  # type: ignore[attr-defined]
    assert answers.tokens["b"] == expected(prompt, 1)


def test_requests_that_arrive_together_share_their_prefix() -> None:
    engine = make_engine(num_blocks=32, max_tokens=64)
    shared = list(range(16))
    prompts = [[*shared, 20 + i] for i in range(4)]
    answers = run(engine, *(request(str(i), p, 2) for i, p in enumerate(prompts)))
    assert engine.runner.num_tokens_run == 17 + 3 + 4  # type: ignore[attr-defined]
    assert answers.tokens == {str(i): expected(p, 2) for i, p in enumerate(prompts)}


def test_forks_share_the_prompt_and_copy_its_last_block() -> None:
    engine = make_engine()
    prompt = list(range(10))
    answers = run(
        engine,
        request("a", prompt, 6),
        *(request(f"a#{i}", prompt, 6, fork_of="a") for i in range(1, 4)),
    )
    # The prompt once, its last token again for each fork, then five more tokens each.
    assert engine.runner.num_tokens_run == 10 + 3 + 4 * 5  # type: ignore[attr-defined]
    assert set(map(tuple, answers.tokens.values())) == {tuple(expected(prompt, 6))}
    assert len(answers.tokens) == 4


def test_equal_prompts_of_different_salt_share_nothing() -> None:
    engine = make_engine()
    prompt = list(range(12))
    for salt in ("a", "b"):
        run(engine, request(salt, prompt, 1, cache_salt=salt))
    assert engine.runner.num_tokens_run == 24  # type: ignore[attr-defined]


def test_priority_goes_first_and_is_preempted_last() -> None:
    engine = make_engine(max_requests=1, by_priority=True)
    order = []
    for id, priority in (("low", 5), ("high", 1), ("middle", 3)):
        engine.add(request(id, [1, 2], 2, priority=priority))
    while engine.has_work:
        order += [o.request_id for o in engine.step().outputs if o.finish_reason]
    assert order == ["high", "middle", "low"]


@pytest.mark.parametrize("steps_in_flight", [1, 2])
def test_stop_tokens_end_a_request_at_once_and_min_tokens_delay_them(steps_in_flight: int) -> None:
    engine = make_engine(steps_in_flight=steps_in_flight)
    tokens = expected([3, 1], 12)
    stop = tokens[4]
    params = SamplingParams(temperature=0, max_tokens=12, stop_token_ids=[stop])
    answers = run(engine, request("a", [3, 1], 12, params=params))
    assert answers.tokens["a"] == tokens[: tokens.index(stop) + 1]
    assert answers.finished["a"] == "stop"
    eos = run(
        engine,
        request(
            "b",
            [3, 1],
            12,
            params=SamplingParams(temperature=0, max_tokens=12),
            eos_token_ids=(stop,),
        ),
    )
    assert eos.tokens["b"] == answers.tokens["a"]


def test_prompt_logprobs_come_once_and_whole_whatever_the_chunks_and_preemptions() -> None:
    for max_tokens in (4, 5, 16):
        engine = make_engine(num_blocks=8, max_tokens=max_tokens)
        params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True, prompt_logprobs=0)
        prompt = random.Random(0).choices(range(VOCAB), k=13)
        run(engine, request("warm the cache", prompt, 1))
        scored: list[tuple[int, float]] = []
        for id in "ab":
            engine.add(request(id, prompt, 8, params=params))
        while engine.has_work:
            for output in engine.step().outputs:
                if output.request_id == "a":
                    found = output.prompt_logprobs or []
                    scored += [(p.token_ids[0], p.logprobs[0]) for p in found]
        assert scored == [(token, -float(i)) for i, token in enumerate(prompt[1:])]


def test_a_request_that_cannot_be_served_is_answered_with_an_error() -> None:
    engine = make_engine()
    answers = Answers()
    engine.add(request("long", [1] * MAX_LEN, 1))
    engine.add(request("empty", [], 1))
    while engine.has_work:
        answers.take(engine.step())
    assert answers.finished == {"long": "error", "empty": "error"}
