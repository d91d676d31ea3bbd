"""Kernels compiled ahead are those that launches want afterwards."""

from __future__ import annotations

import pytest
import torch
from fake_driver import pretend
from triton import knobs

from pagoda_kernels_triton.ahead import compile_ahead
from pagoda_kernels_triton.norm import add_rms_norm, rms_norm


def _steps() -> None:
    x, weight = torch.ones(8, 48), torch.ones(48)
    rms_norm(x, weight, 1e-6)
    add_rms_norm(x, torch.ones(8, 48), weight, 1e-6)


def test_what_is_rehearsed_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    listen = lambda **found: compiled.append(found["metadata"]["name"])  # noqa: E731
    monkeypatch.setattr(knobs.compilation, "listener", listen)
    with pretend("sm_90") as driver:
        wait = compile_ahead(torch.device("cpu"), _steps)
        assert driver.launches == []
        wait()
        assert len(compiled) == 2
        _steps()
        assert len(compiled) == 2
        assert len(driver.launches) == 2
        compile_ahead(torch.device("cpu"), _steps)()
        assert len(compiled) == 2


def test_a_rehearsal_that_fails_leaves_launches_as_they_were() -> None:
    def fails() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        compile_ahead(torch.device("cpu"), fails)
    assert knobs.runtime.jit_cache_hook is None
