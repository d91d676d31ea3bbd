"""One model over several devices: the same answers."""

from __future__ import annotations

import numpy as np
import pytest

from pagoda.conformance.driver import Driver
from pagoda.conformance.feeder import Feeder
from pagoda.conformance.subject import Subject
from pagoda.platform.types import Feature

pytestmark = pytest.mark.needs(Feature.TENSOR_PARALLEL)


def test_two_devices(subject: Subject, rng: np.random.Generator) -> None:
    usable = [device for device in subject.choice.platform.probe() if not device.problem]
    if len(usable) < 2:
        pytest.skip("one device here; two are needed")
    for family in subject.families:
        heads = subject.oracle(family).shape.num_kv_heads
        if heads % 2:
            continue  # sharing one key head is not asked for
        opened = subject.open(
            family, subject.variants[0], device=subject.name, tensor_parallel_size=2
        )
        try:
            feeder = Feeder(opened, rng)
            feeder.run(dict(enumerate(opened.prompts(rng, [30, 5]))))
            feeder.run({0: [9], 1: [8]})
            feeder.judge("Two devices share the model.")
            driver = Driver(opened)
            for prompt in opened.prompts(rng, [4, 40, 17]):
                driver.add(prompt, 12)
            driver.finish()
            driver.judge("Two devices share the model.")
        finally:
            opened.runner.close()
