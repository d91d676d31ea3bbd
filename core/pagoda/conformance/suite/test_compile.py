"""After warm_up nothing compiles: the first user must not pay, nor the first odd batch size."""

from __future__ import annotations

import numpy as np
import pytest

from pagoda.conformance.driver import Driver
from pagoda.conformance.subject import Subject


def test_nothing_compiles_after_warm_up(subject: Subject, rng: np.random.Generator) -> None:
    """A runner that compiles or records says how often, in ``num_compiles``."""
    opened = subject.open(subject.families[0], subject.variants[0])
    try:
        before = getattr(opened.runner, "num_compiles", None)
        if before is None:
            pytest.skip("the runner reports no num_compiles: it does not compile")
        for count in range(1, opened.limits.max_requests + 1):
            driver = Driver(opened)
            for prompt in opened.prompts(rng, [11 * count] * count):
                driver.add(prompt, 3)
            driver.finish()
        after = getattr(opened.runner, "num_compiles", None)
        assert after == before, (
            f"num_compiles went from {before} to {after} after warm_up: some batch shape is not"
            " compiled or recorded there"
        )
    finally:
        opened.runner.close()
