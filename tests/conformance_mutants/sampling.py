"""Mistakes in sampling and log-probabilities."""

from __future__ import annotations

import dataclasses

import numpy as np

from conformance_mutants.catalog import mutant
from pagoda.platform import Done, Feature
from pagoda.reference.runner import ReferenceRunner
from pagoda.sampling import reference


class Resampling(ReferenceRunner):
    """The right logits, with tokens and logprobs by ``pick``."""

    def submit(self, batch):
        result = super().submit(dataclasses.replace(batch, want_logits=True)).result()
        tokens, logprobs = self.pick(result.logits, batch.sampling)
        self._last_token[batch.slots[batch.sample_rows]] = tokens
        return Done(dataclasses.replace(result, token_ids=tokens, logprobs=logprobs))

    def pick(self, logits, batch):
        return reference.sample(logits, self.change(batch))

    def change(self, batch):
        return batch


@mutant("test_sampling.py", "not with this number: `uniform` is not used as defined")
class OwnNumbers(Resampling):
    """Random numbers of the platform's own."""

    numbers = np.random.default_rng(0)

    def change(self, batch):
        uniform = self.numbers.random(len(batch.uniform), np.float32)
        return dataclasses.replace(batch, uniform=uniform)


@mutant("test_sampling.py::test_penalties", "right if penalties are ignored")
class PenaltiesIgnored(Resampling):
    def change(self, batch):
        return dataclasses.replace(batch, penalties=None)


@mutant("test_sampling.py::test_bias", "right if the token bias is ignored")
class BiasIgnored(Resampling):
    def change(self, batch):
        return dataclasses.replace(batch, bias=None)


@mutant("test_sampling.py::test_mask", "right if the token mask is ignored")
class MaskIgnored(Resampling):
    def change(self, batch):
        return dataclasses.replace(batch, mask=None)


@mutant("test_sampling.py::test_top_k_top_p_min_p", "outside of what top_k, top_p and min_p keep")
class OneTokenTooMany(Resampling):
    """top_k keeps k + 1."""

    def change(self, batch):
        return dataclasses.replace(batch, top_k=batch.top_k + (batch.top_k > 0))


@mutant("test_sampling.py::test_top_k_top_p_min_p", "right if min_p is ignored")
class MinPIgnored(Resampling):
    def change(self, batch):
        return dataclasses.replace(batch, min_p=np.zeros_like(batch.min_p))


@mutant("test_sampling.py::test_bias", "three equal logits.*not the lowest id")
class LastOfEquals(Resampling):
    def pick(self, logits, batch):
        tokens, logprobs = reference.sample(logits, batch)
        scores = reference.adjust(logits, batch)
        last = scores.shape[1] - 1 - scores[:, ::-1].argmax(axis=1)
        return np.where(batch.temperature > 0, tokens, last).astype(np.int32), logprobs


@mutant("test_logprobs.py::test_logprobs", r"from those of the raw logits")
class LogprobsAfterTemperature(Resampling):
    def pick(self, logits, batch):
        tokens, logprobs = reference.sample(logits, batch)
        if logprobs is not None:
            warm = np.where(batch.temperature > 0, batch.temperature, 1).astype(np.float32)
            most = int(batch.num_logprobs.max())
            logprobs = reference.logprobs_of(logits / warm[:, None], tokens, most)
        return tokens, logprobs


@mutant("test_logprobs.py::test_logprobs", r"rank \d+; \d+ tokens are more likely")
class RanksFromZero(Resampling):
    def pick(self, logits, batch):
        tokens, logprobs = reference.sample(logits, batch)
        if logprobs is not None:
            logprobs = dataclasses.replace(logprobs, ranks=logprobs.ranks - 1)
        return tokens, logprobs


@mutant("test_logprobs.py::test_prompt_logprobs", "predicted by the logits of position")
class ScoresShifted(ReferenceRunner):
    """Each prompt token is scored by its own logits, which have seen it."""

    def submit(self, batch):
        if batch.score is not None:
            rows = np.minimum(batch.score.token_rows + 1, len(batch.token_ids) - 1)
            score = dataclasses.replace(batch.score, token_rows=rows)
            batch = dataclasses.replace(batch, score=score)
        return super().submit(batch)


def _refuse_nothing(monkeypatch):
    from pagoda.engine import client

    monkeypatch.setattr(client, "needed_features", lambda params: [])


@mutant(
    "test_features.py::test_requests",
    "DID NOT RAISE",
    declares=lambda c: dataclasses.replace(c, features=c.features - {Feature.PENALTIES}),
    breaks_core=_refuse_nothing,
)
class UnclaimedAndNotRefused(ReferenceRunner):
    """The engine lets a request through that needs what is not claimed."""
