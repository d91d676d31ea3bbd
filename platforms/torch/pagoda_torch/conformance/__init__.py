"""What the torch family adds to the conformance kit: suites for its attention backends and ops, and
how to poison a cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pagoda.conformance.profile import Profile
from pagoda.platform import ModelRunner, PagodaError
from pagoda_torch.runner import TorchRunner


def torch_profile(**more: Any) -> Profile:
    """A torch platform's answer to pagoda_conformance_profile; ``more`` as Profile's fields."""
    fields: dict[str, Any] = {"suites": (Path(__file__).parent,), "poison_cache": poison_cache}
    return Profile(**{**fields, **more})


def poison_cache(runner: ModelRunner) -> None:
    """Fill every layer's cache with NaN, to show that what nobody wrote is never read."""
    if not isinstance(runner, TorchRunner):
        raise PagodaError(f"{type(runner).__name__} is no torch runner")
    for layer in runner.context.attention_layers:
        if layer.cache.is_floating_point():
            layer.cache.fill_(float("nan"))
        else:  # scales among whole numbers: all bits set are NaN too
            layer.cache.fill_(-1)
