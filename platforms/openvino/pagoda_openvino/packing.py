"""OpenVINO lays weights out anew for its kernels, some when it compiles, the others in the first
inference; both happen here, at load, so that memory can be counted and no request waits for it."""

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


def first_inference(request: ov.InferRequest, layout: CacheLayout) -> None:
    """Run one token on a cache of one block, which is then forgotten."""
    cache = PagedCache(layout, 1, 1 << 62)  # held: the request has but its address
    cache.bind(request)
    zero = np.zeros(1, np.int64)
    begins = np.array([0, 1], np.int32)
    for name, array in {
        **{"token_ids": zero, "positions": zero, "logit_rows": zero},
        **{"past_lens": zero.astype(np.int32), "subsequence_begins": begins},
        **{"block_indices": zero.astype(np.int32), "block_indices_begins": begins},
        "max_context_len": np.array(1, np.int32),
    }.items():
        request.set_tensor(name, ov.Tensor(array))
    request.infer(share_outputs=True)
