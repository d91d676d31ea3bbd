"""Mistakes with rows, slots, steps in flight, errors and a runner's life."""

from __future__ import annotations

import dataclasses

import numpy as np

from conformance_mutants.catalog import mutant
from pagoda.platform import PENDING, Done, PagodaError, StepResult
from pagoda.reference.runner import ReferenceRunner


@mutant("test_overlap.py::test_results_belong_to_their_steps", "that of its own step")
class ResultsSwapped(ReferenceRunner):
    """A handle gives the latest step's result."""

    def submit(self, batch):
        self.latest = super().submit(batch).result()
        runner = self

        class Handle:
            def result(self):
                return runner.latest

        return Handle()


@mutant("test_overlap.py", "each is what its slot, not its row, sampled last")
class PendingByRow(ReferenceRunner):
    """What was sampled last is kept by the row, not by the slot."""

    def submit(self, batch):
        rows = self.__dict__.setdefault("by_row", np.zeros(self.config.max_requests, np.int32))
        tokens = batch.token_ids.copy()
        pending = np.flatnonzero(tokens == PENDING)
        tokens[pending] = rows[batch.rows[pending]]
        handle = super().submit(dataclasses.replace(batch, token_ids=tokens))
        rows[batch.sample_rows] = handle.result().token_ids
        return handle


@mutant("test_steps.py::test_some_rows_are_sampled", "these are the logits of slot 0")
class WrongRows(ReferenceRunner):
    """The first rows are answered, whichever were asked for."""

    def submit(self, batch):
        rows = np.arange(len(batch.sample_rows), dtype=np.int32)
        return super().submit(dataclasses.replace(batch, sample_rows=rows))


@mutant("test_steps.py::test_a_prompt", "these are the logits of slot 0 after its token 0")
class FirstToken(ReferenceRunner):
    """The logits are those of a query's first token."""

    def submit(self, batch):
        batch.__dict__["logit_index"] = batch.query_start[:-1][batch.sample_rows]
        return super().submit(batch)


@mutant("test_steps.py::test_a_step_may_sample_nothing", "nothing to sample")
class MustSample(ReferenceRunner):
    def submit(self, batch):
        if not len(batch.sample_rows):
            raise ValueError("nothing to sample")
        return super().submit(batch)


@mutant("test_generation.py::test_batches_of_every_size", "5 requests ran at once")
class BatchEdge(ReferenceRunner):
    """Batches are padded to 4 or 8 rows, and the last of a padded batch is forgotten."""

    def submit(self, batch):
        result = super().submit(batch).result()
        if len(batch.slots) in (5, 6, 7) and len(result.token_ids):
            tokens = result.token_ids.copy()
            tokens[-1] = tokens[0]
            result = dataclasses.replace(result, token_ids=tokens)
        return Done(result)


@mutant("test_steps.py::test_more_than_was_agreed_is_refused", "accepted: the error is swallowed")
class LimitsUnchecked(ReferenceRunner):
    def __init__(self, config, model):
        room = {"max_tokens": 1 << 20, "max_requests": 64, "max_model_len": 4096}
        super().__init__(dataclasses.replace(config, **room), model)


@mutant("test_steps.py::test_more_than_was_agreed_is_refused", "accepted: the error is swallowed")
class ErrorSwallowed(ReferenceRunner):
    def submit(self, batch):
        try:
            return super().submit(batch)
        except PagodaError:
            return Done(StepResult(np.zeros(len(batch.sample_rows), np.int32)))


@mutant(
    "test_steps.py::test_more_than_was_agreed_is_refused", "PagodaError was to say what is wrong"
)
class ErrorUnexplained(ReferenceRunner):
    def submit(self, batch):
        try:
            return super().submit(batch)
        except PagodaError as error:
            raise IndexError(3) from error


@mutant("test_lifecycle.py::test_close_may_be_called_again", "closed already")
class CloseOnce(ReferenceRunner):
    closed = False

    def close(self):
        if self.closed:
            raise RuntimeError("closed already")
        self.closed = True
        super().close()


@mutant("test_lifecycle.py::test_two_at_once", "Two runners were open at once")
class OneForAll(ReferenceRunner):
    """The weights are global: the runner that loaded last answers for all."""

    newest: list[ReferenceRunner] = []  # noqa: RUF012  shared on purpose

    def load(self):
        super().load()
        self.newest.append(self)

    def submit(self, batch):
        self._llama = self.newest[-1]._llama
        return super().submit(batch)


@mutant("test_compile.py", "num_compiles went from 0 to")
class CompilesLate(ReferenceRunner):
    """Compiles a step's shape when it first sees it."""

    def __init__(self, config, model):
        super().__init__(config, model)
        self.shapes: set[int] = set()

    @property
    def num_compiles(self):
        return len(self.shapes)

    def submit(self, batch):
        self.shapes.add(len(batch.token_ids))
        return super().submit(batch)
