"""Right platforms that offer little, for the kit to leave in peace."""

from __future__ import annotations

import dataclasses

from conformance_mutants.catalog import Mutant
from pagoda.platform import Capabilities, Feature, StepLimits
from pagoda.reference.runner import ReferenceRunner

DECLARED = {
    "contiguous": Capabilities(  # a cache row for each request
        StepLimits(2048, 3, mixed=False, chunked_prefill=False), ("float32",), block_sizes=(256,)
    ),
    "unmixed": Capabilities(StepLimits(40, 2, mixed=False, token_sizes=(1, 8, 40)), ("float32",)),
    "whole-prompts": Capabilities(
        StepLimits(2048, 16, chunked_prefill=False, steps_in_flight=3),
        ("float32",),
        features=frozenset({Feature.LOGPROBS, Feature.BLOCK_COPY}),
        block_sizes=(16, 128),
    ),
    "one-at-a-time": Capabilities(StepLimits(512, 1), ("float32",), block_sizes=(128,)),
}


def modest(name: str) -> Mutant:
    declared = DECLARED[name]

    class Runner(ReferenceRunner):
        def __init__(self, config, model):
            size = config.block_size or (*declared.block_sizes, None)[0]
            super().__init__(dataclasses.replace(config, block_size=size), model)

    return Mutant(name, Runner, "", "", declares=lambda _: declared)


MODEST = {name: modest(name) for name in DECLARED}
