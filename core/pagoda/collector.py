"""Python's cycle collector out of the way while very many objects are made, none of them garbage:
it would look through all of them again and again."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused() -> Iterator[None]:
    """No collections in the block, in any thread; what lives at its end counts as old."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            if not gc.get_freeze_count():  # nobody else's
                gc.freeze()
                gc.unfreeze()  # into the oldest generation, without a look at any of it
            gc.enable()
