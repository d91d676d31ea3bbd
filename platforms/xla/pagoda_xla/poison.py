"""For the conformance kit: a cache full of NaN, so that reading what nobody wrote is seen."""

from __future__ import annotations

from pagoda.platform import ModelRunner, PagodaError
from pagoda_xla.runner import XlaRunner


def poison_cache(runner: ModelRunner) -> None:
    if not isinstance(runner, XlaRunner):
        raise PagodaError(f"{type(runner).__name__} is no XLA runner")
    runner.poison_cache()
