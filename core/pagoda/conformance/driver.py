"""Requests through the real engine core, and a judgement of what came out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pagoda.conformance.subject import Opened
from pagoda.engine.core import EngineCore
from pagoda.engine.messages import EngineOutput, EngineRequest
from pagoda.platform.batch import ScheduledBatch
from pagoda.platform.runner import ModelRunner, StepHandle
from pagoda.sampling.params import SamplingParams

GIVE_UP = 5000  # steps


@dataclass
class Answer:
    """What came back for one request."""

    prompt: list[int]
    token_ids: list[int] = field(default_factory=list)
    outputs: list[EngineOutput] = field(default_factory=list)
    finish_reason: str | None = None
    num_cached_tokens: int = 0


class Driver:
    """Feeds one engine core; greedy unless told otherwise."""

    def __init__(self, opened: Opened, engine: EngineCore | None = None):
        self.opened = opened
        self.engine = engine or opened.engine()
        self.answers: dict[str, Answer] = {}

    def add(
        self, prompt: Sequence[int], count: int = 6, fork_of: str | None = None, **params: Any
    ) -> str:
        """Queue a request for ``count`` tokens; returns its id."""
        name = f"request {len(self.answers)}"
        wanted: dict[str, Any] = {"temperature": 0.0, "max_tokens": count, "ignore_eos": True}
        self.engine.add(
            EngineRequest(
                request_id=name,
                prompt_token_ids=list(prompt),
                params=SamplingParams(**{**wanted, **params}),
                fork_of=fork_of,
            )
        )
        self.answers[name] = Answer(list(prompt))
        return name

    def step(self) -> None:
        for output in self.engine.step().outputs:
            answer = self.answers[output.request_id]
            assert output.error is None, f"{output.request_id} ended with: {output.error}"
            answer.token_ids += output.token_ids
            answer.outputs.append(output)
            answer.finish_reason = output.finish_reason
            answer.num_cached_tokens += output.num_cached_tokens

    def finish(self) -> list[list[int]]:
        """Run until nothing is left; the tokens of all requests in order."""
        for _ in range(GIVE_UP):
            if not self.engine.has_work:
                break
            self.step()
        else:
            raise AssertionError(f"requests are unfinished after {GIVE_UP} steps")
        pool = self.engine.scheduler.pool
        assert pool.num_free == pool.num_blocks, (
            f"{pool.num_blocks - pool.num_free} blocks leaked: all requests ended and they are"
            " still in use"
        )
        return [answer.token_ids for answer in self.answers.values()]

    def judge(self, about: str = "") -> None:
        """Every greedy token is the oracle's choice, given those before it, to within twice the
        tolerance (two logits may each be off by it)."""
        opened = self.opened
        for name, answer in self.answers.items():
            if not answer.token_ids:
                continue
            short = opened.oracle.shortfall(answer.prompt, answer.token_ids)
            wrong = [i for i, gap in enumerate(short) if gap > 2 * opened.tolerance]
            assert not wrong, (
                f"{name} (prompt of {len(answer.prompt)} tokens): output token {wrong[0]} is"
                f" {answer.token_ids[wrong[0]]}, whose logit is {short[wrong[0]]:.2g} below the"
                f" best; {2 * opened.tolerance:.2g} is allowed. {about} If single steps are wrong"
                " too, test_steps.py says more."
            )


class Watched:
    """A runner that keeps the batches it is given."""

    def __init__(self, runner: ModelRunner):
        self.runner = runner
        self.batches: list[ScheduledBatch] = []

    def submit(self, batch: ScheduledBatch) -> StepHandle:
        self.batches.append(batch)
        return self.runner.submit(batch)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.runner, name)
