"""Numbers on their way into the cache, whose dtype may be narrower than theirs."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def as_stored(x, KIND: tl.constexpr):
    """``x`` as KIND; of 8 bits: the largest there is, where x is beyond it."""
    if KIND == tl.float8e4nv:  # noqa: SIM300
        x = tl.minimum(tl.maximum(x.to(tl.float32), -448.0), 448.0)
    elif KIND == tl.float8e5:  # noqa: SIM300
        x = tl.minimum(tl.maximum(x.to(tl.float32), -57344.0), 57344.0)
    return x.to(KIND)
