"""OpenVINO lays weights out anew for its kernels, in the first inference of one token and some
once more in the first of several; both happen here, at load, so that memory can be counted and no
request waits for it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import openvino as ov

from pagoda_openvino.cache import CacheLayout, PagedCache
from pagoda_openvino.model_graph import ModelGraph

SECONDS = 0.04  # between two times that pages are handed back; each costs finding some anew


@contextmanager
def handing_back_pages(graph: ModelGraph) -> Iterator[None]:
    """Meanwhile, hand the checkpoint's mapped pages back to the system again and again: what was
    read once has its copy, and resident memory does not hold both."""
    done = threading.Event()

    def work() -> None:
        while not done.wait(SECONDS):
            graph.hand_back_pages()

    helper = threading.Thread(target=work, name="pagoda-openvino-pages", daemon=True)
    helper.start()
    try:
        yield
    finally:
        done.set()
        helper.join()
        graph.hand_back_pages()


def first_inferences(request: ov.InferRequest, layout: CacheLayout) -> None:
    """Run one token, then a block of them, on a cache of one block, which is then forgotten."""
    cache = PagedCache(layout, 1, 1 << 62)  # held: the request has but its address
    cache.bind(request)
    for count in (1, layout.block_size):
        tokens, zero = np.zeros(count, np.int64), np.zeros(1, np.int32)
        for name, array in {
            **{"token_ids": tokens, "positions": np.arange(count), "logit_rows": tokens[:1]},
            **{"past_lens": zero, "subsequence_begins": np.array([0, count], np.int32)},
            **{"block_indices": zero, "block_indices_begins": np.array([0, 1], np.int32)},
            "max_context_len": np.array(count, np.int32),
        }.items():
            request.set_tensor(name, ov.Tensor(array))
        request.infer(share_outputs=True)
