"""Sampling judged on the runner's own logits: the numbers come with the batch, so that the token
of every row is known beforehand, and a wrong one often tells what was left out."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from pagoda.conformance.feeder import Feeder, sampling
from pagoda.conformance.subject import Opened
from pagoda.platform.batch import SamplingBatch
from pagoda.platform.runner import StepResult
from pagoda.sampling import reference

NEAR = 1e-5  # float32 sums of probabilities differ by this much between right samplers


class Bench:
    """Runs one-token steps with any SamplingBatch, over as many rows as a step may hold."""

    def __init__(self, opened: Opened, rng: np.random.Generator):
        self.opened = opened
        self.feeder = Feeder(opened, rng)
        self.rng = rng
        self.num_rows = min(opened.limits.max_requests, opened.limits.max_tokens)

    def run(self, **fields: Any) -> tuple[StepResult, SamplingBatch]:
        """One step of fresh single-token requests; fields as for ``feeder.sampling``."""
        for slot in list(self.feeder.lives):
            self.feeder.retire(slot)
        tokens = self.rng.integers(3, self.opened.model.vocab_size, self.num_rows).tolist()
        batch = sampling(self.num_rows, **fields)
        parts = {slot: [token] for slot, token in enumerate(tokens)}
        return self.feeder.run(parts, sampling=batch), batch

    def uniform(self) -> Any:
        return self.rng.random(self.num_rows, np.float32)

    def check(self, about: str, **fields: Any) -> None:
        """Each row's token is what the definition gives for the row's logits and number."""
        result, batch = self.run(**fields)
        logits = result.logits
        assert logits is not None
        allowed = [reference.sample(logits, near)[0] for near in _nearby(batch)]
        for row, token in enumerate(result.token_ids.tolist()):
            right = {int(tokens[row]) for tokens in allowed}
            assert token in right, (
                f"{about}: row {row} gave token {token}; with uniform {batch.uniform[row]:.6f},"
                f" temperature {batch.temperature[row]:.2f}, top_k {batch.top_k[row]}, top_p"
                f" {batch.top_p[row]:.3f}, min_p {batch.min_p[row]:.3f} the definition gives"
                f" {right}. {_hint(token, row, logits, batch)}"
            )


def _nearby(batch: SamplingBatch) -> list[SamplingBatch]:
    """The batch, and those that differ by rounding."""
    found = [batch]
    for by in (-NEAR, NEAR):
        uniform = np.clip(batch.uniform + by, 0, np.float32(1 - 2.0**-24)).astype(np.float32)
        found.append(dataclasses.replace(batch, uniform=uniform))
        top_p = np.where(batch.top_p < 1, np.clip(batch.top_p + by, 1e-6, 1), 1).astype(np.float32)
        found.append(dataclasses.replace(batch, top_p=top_p))
        min_p = np.where(batch.min_p > 0, batch.min_p * (1 + by), 0).astype(np.float32)
        found.append(dataclasses.replace(batch, min_p=min_p))
    return found


def _hint(token: int, row: int, logits: Any, batch: SamplingBatch) -> str:
    """Which single omission would explain this token."""
    omissions: dict[str, dict[str, Any]] = {
        "penalties are ignored": {"penalties": None},
        "the token mask is ignored": {"mask": None},
        "the token bias is ignored": {"bias": None},
        "temperature is ignored": {"temperature": (batch.temperature > 0).astype(np.float32)},
        "top_k is ignored": {"top_k": np.zeros_like(batch.top_k)},
        "top_p is ignored": {"top_p": np.ones_like(batch.top_p)},
        "min_p is ignored": {"min_p": np.zeros_like(batch.min_p)},
    }
    plain = reference.sample(logits, batch)[0][row]
    for story, change in omissions.items():
        found = reference.sample(logits, dataclasses.replace(batch, **change))[0][row]
        if found == token and found != plain:
            return f"It would be right if {story}."
    if batch.temperature[row] > 0:
        kept = reference.adjust(logits, batch)[row] / batch.temperature[row]
        weights = reference.kept_weights(
            kept, int(batch.top_k[row]), float(batch.top_p[row]), float(batch.min_p[row])
        )
        if weights[token] == 0:
            return "The token is outside of what top_k, top_p and min_p keep."
        return "The token may be drawn, but not with this number: `uniform` is not used as defined."
    return "Greedy rows take the largest logit, the lowest id among equals."
