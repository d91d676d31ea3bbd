"""The engine: one loop of schedule, submit, collect.  Tokens in, tokens out; text is the client's.

It never waits for the device but for the oldest step, and plans up to ``steps_in_flight`` ahead.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pagoda.engine.messages import EngineOutput, EngineOutputs, EngineRequest, EngineStats
from pagoda.engine.results import collect_logprobs, collect_scores
from pagoda.platform.errors import InvalidValue, PagodaError, UnsupportedFeature
from pagoda.platform.runner import ModelRunner, StepHandle, StepResult
from pagoda.platform.types import StepLimits, StepStats
from pagoda.registry import observers
from pagoda.sampling.batch import SamplingTable
from pagoda.sampling.state import Matcher, SamplingState
from pagoda.scheduler.batch import build_batch
from pagoda.scheduler.request import Request, Status
from pagoda.scheduler.scheduler import Plan, Scheduler

if TYPE_CHECKING:
    from pagoda.sampling.grammar import GrammarCompiler


@dataclass(frozen=True)
class EngineShape:
    """What an engine needs to know of its model and memory."""

    limits: StepLimits  # what the platform offers, narrowed by the user's settings
    num_blocks: int
    block_size: int
    max_model_len: int
    vocab_size: int
    prefix_caching: bool = True
    copy_blocks: bool = True
    by_priority: bool = False


@dataclass
class Step:
    """A submitted step."""

    plan: Plan
    handle: StepHandle
    started: float


class EngineCore:
    """Drives one runner.  Not thread-safe: one thread adds, aborts and steps."""

    def __init__(
        self, runner: ModelRunner, shape: EngineShape, grammars: GrammarCompiler | None = None
    ):
        self.runner = runner
        self.shape = shape
        self.grammars = grammars
        self.scheduler = Scheduler(
            shape.limits,
            shape.num_blocks,
            shape.block_size,
            shape.max_model_len,
            shape.prefix_caching,
            shape.copy_blocks,
        )
        self.sampling = SamplingTable(shape.limits.max_requests, shape.vocab_size)
        self.requests: dict[str, Request] = {}
        self.num_steps = 0
        self._arrivals = 0
        self._in_flight: deque[Step] = deque()
        self._outbox: list[EngineOutput] = []  # finished outside of a step
        self._observers = observers()

    # -- requests -------------------------------------------------------------------------------

    def add(self, message: EngineRequest) -> None:
        """Queue a request.  One that cannot be served is answered with an error output."""
        try:
            request = self._make_request(message)
        except PagodaError as error:
            self._outbox.append(
                EngineOutput(request_id=message.request_id, finish_reason="error", error=str(error))
            )
            return
        self._arrivals += 1
        self.requests[request.id] = request
        self.scheduler.add(request)

    def abort(self, request_ids: list[str]) -> None:
        """Stop these requests and free what they hold; unknown ids are ignored."""
        for request_id in request_ids:
            request = self.requests.pop(request_id, None)
            if request is not None:
                self.scheduler.finish(request)

    def _make_request(self, message: EngineRequest) -> Request:
        if message.request_id in self.requests:
            raise InvalidValue("request_id", message.request_id, "is already running")
        params, prompt = message.params, message.prompt_token_ids
        room = self.shape.max_model_len - len(prompt)
        if not prompt or room < 1:
            allowed = f"must have 1 to {self.shape.max_model_len - 1} tokens"
            raise InvalidValue("prompt", f"{len(prompt)} tokens", allowed)
        grammar: Matcher | None = None
        if params.structured_outputs is not None:
            if self.grammars is None:
                raise UnsupportedFeature("structured_outputs: this engine compiles no grammars")
            grammar = self.grammars.start(params.structured_outputs)
        sampling = SamplingState(
            params, self.shape.vocab_size, prompt, message.eos_token_ids, grammar
        )
        eos = () if params.ignore_eos else message.eos_token_ids
        parent = self.requests.get(message.fork_of) if message.fork_of else None
        return Request(
            message.request_id,
            prompt,
            params,
            sampling,
            arrival=self._arrivals,
            limit=len(prompt) + min(params.max_tokens or room, room),
            stop_token_ids=frozenset(eos) | frozenset(params.stop_token_ids or ()),
            priority=message.priority if self.shape.by_priority else 0,
            fork_of=parent,
            salt=message.cache_salt,
        )

    @property
    def has_work(self) -> bool:
        return bool(self.requests or self._in_flight or self._outbox)

    # -- the loop -------------------------------------------------------------------------------

    def step(self) -> EngineOutputs:
        """Submit the next step if one can be planned, and collect the oldest if it is due."""
        started = time.monotonic()
        plan = self.scheduler.schedule(len(self._in_flight))
        if plan is not None:
            self._submit(plan, started)
        outputs = self._outbox
        self._outbox = []
        if self._in_flight and (
            plan is None or len(self._in_flight) >= self.shape.limits.steps_in_flight
        ):
            outputs = outputs + self._collect(self._in_flight.popleft())
        return EngineOutputs(outputs=outputs, stats=self.stats())

    def close(self) -> None:
        """Let steps in flight land, then free the device."""
        try:
            while self._in_flight:
                self._in_flight.popleft().handle.result()
        finally:
            self.runner.close()

    def stats(self) -> EngineStats:
        scheduler = self.scheduler
        return EngineStats(
            num_running=len(scheduler.running),
            num_waiting=len(scheduler.waiting),
            kv_usage=scheduler.pool.usage,
            prefix_queries=scheduler.prefixes.num_queries,
            prefix_hits=scheduler.prefixes.num_hits,
            num_preemptions=scheduler.num_preemptions,
            num_steps=self.num_steps,
        )

    def _submit(self, plan: Plan, started: float) -> None:
        scheduler, table = self.scheduler, self.scheduler.table
        for request in plan.requests[plan.num_decodes :]:
            if table.admitted[request.slot]:
                self.sampling.put(request.slot, request.sampling)
                if not request.num_preemptions:
                    request.time_in_queue = started - request.queued_at
        batch = build_batch(plan, table, self.sampling)
        handle = self.runner.submit(batch)
        scheduler.submitted(plan)
        self._in_flight.append(Step(plan, handle, started))

    def _collect(self, step: Step) -> list[EngineOutput]:
        plan, result = step.plan, step.handle.result()
        self.num_steps += 1
        outputs = self._take_tokens(plan, result)
        if plan.scored and result.score is not None:
            collect_scores(plan, result.score, outputs)
        if self._observers:
            self._observe(step)
        return outputs

    def _take_tokens(self, plan: Plan, result: StepResult) -> list[EngineOutput]:
        """Append each sampled token to its request and finish those that end with it."""
        table, sampled, tokens = self.scheduler.table, plan.sampled, result.token_ids
        rows = np.arange(len(sampled))
        if plan.num_departed != self.scheduler.num_departed:  # aborted or ended with it in flight
            alive = [r.status is Status.RUNNING for r in sampled]
            rows, sampled = (
                np.flatnonzero(alive),
                [r for r in sampled if r.status is Status.RUNNING],
            )
        slots, tokens = plan.slots[plan.sample_rows[rows]], tokens[rows]
        table.land(slots, tokens)
        outputs = []
        for request, token in zip(sampled, tokens.tolist(), strict=True):
            request.tokens.append(token)
            outputs.append(EngineOutput(request_id=request.id, token_ids=[token]))
        num_output = table.length[slots] - table.pending[slots] - table.prompt_length[slots]
        for i in np.flatnonzero(num_output == 1).tolist():
            outputs[i].num_cached_tokens = sampled[i].num_cached_tokens
            outputs[i].time_in_queue = sampled[i].time_in_queue
        ended = self._ended(slots, tokens)
        for i in np.flatnonzero(table.needs_history[slots]).tolist():
            ended[i] |= self._advance_state(sampled[i], outputs[i])
        if result.logprobs is not None:
            collect_logprobs(result.logprobs, rows, sampled, outputs)
        for i in np.flatnonzero(ended).tolist():
            self._finish(sampled[i], outputs[i])
        return outputs

    def _ended(self, slots: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """[S] which requests end with the token just taken."""
        table = self.scheduler.table
        length = table.length[slots] - table.pending[slots]
        stop = (table.stop_ids[slots] == tokens[:, None]).any(axis=1)
        ended: np.ndarray = (stop & (length > table.min_length[slots])) | (
            length >= table.limit[slots]
        )
        return ended

    def _advance_state(self, request: Request, output: EngineOutput) -> bool:
        """Tell penalties and grammar of the new token; True when the request ends here."""
        state = request.sampling
        state.append(output.token_ids)
        if state.error:
            output.finish_reason, output.error = "error", state.error
        return bool(state.error) or state.grammar_finished

    def _finish(self, request: Request, output: EngineOutput) -> None:
        if output.finish_reason is None:
            token = request.tokens[-1]
            counts = request.num_output > request.params.min_tokens
            if token in request.stop_token_ids and counts:
                output.finish_reason = "stop"
                if token in (request.params.stop_token_ids or ()):
                    output.stop_reason = token
            elif request.sampling.grammar_finished:
                output.finish_reason = "stop"
            else:
                output.finish_reason = "length"
        self.scheduler.finish(request)
        del self.requests[request.id]

    def _observe(self, step: Step) -> None:
        scheduler = self.scheduler
        stats = StepStats(
            step=self.num_steps,
            started=step.started,
            seconds=time.monotonic() - step.started,
            num_requests=len(step.plan.requests),
            num_tokens=int(step.plan.counts.sum()),
            num_sampled=len(step.plan.sampled),
            num_running=len(scheduler.running),
            num_waiting=len(scheduler.waiting),
            kv_usage=scheduler.pool.usage,
            prefix_queries=scheduler.prefixes.num_queries,
            prefix_hits=scheduler.prefixes.num_hits,
            num_preemptions=scheduler.num_preemptions,
        )
        for observe in self._observers:
            observe(stats=stats)
