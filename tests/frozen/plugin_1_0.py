"""A backend as somebody wrote it against contract 1.0, to be run by every later 1.x core.

Never edit it to make a test pass: it stands for the plugins that we cannot edit.  It takes fewer
hook arguments than the specs have, builds its records by position, and leaves out what it may.
Its model continues every sequence with the next token id.
"""

import numpy as np

from pagoda.platform import (
    Capabilities,
    DeviceInfo,
    Done,
    KVCacheSpec,
    KVGroup,
    PlatformInfo,
    StepLimits,
    StepResult,
    hookimpl,
)


@hookimpl
def pagoda_platform():
    return PlatformInfo("fossil", "written for contract 1.0", (1, 0), -5)


@hookimpl
def pagoda_probe():
    return [DeviceInfo("0", "amber")]


@hookimpl
def pagoda_capabilities():
    return Capabilities(StepLimits(64, 4), ("float32",))


@hookimpl
def pagoda_create_runner(model):
    return Runner(model.vocab_size)


@hookimpl
def pagoda_diagnose():
    return {"amber": "solid"}


class Runner:
    def __init__(self, vocab_size):
        self.vocab_size = vocab_size

    def load(self):
        self.loaded = True

    def kv_cache_spec(self):
        return KVCacheSpec((KVGroup(8, 1),))

    def free_kv_bytes(self):
        return 4096

    def init_kv_cache(self, num_blocks):
        self.num_blocks = num_blocks

    def warm_up(self):
        pass

    def submit(self, batch):
        last = batch.token_ids[batch.logit_index]
        return Done(StepResult(((last + 1) % self.vocab_size).astype(np.int32)))

    def close(self):
        self.loaded = False
