"""Which rows of a decode step begin with the same cache blocks, so that a backend may read those
once for all of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LEAST_SAVED = 1 << 14
"""Keys that need not be read again; for fewer, two passes take longer than one."""


@dataclass(frozen=True)
class SharedPrefix:
    """Rows that share keys, and how many, whole blocks of them."""

    rows: npt.NDArray[np.int64]
    num_keys: int


def shared_prefix(
    ids: npt.NDArray[np.int32], context_lens: npt.NDArray[np.int32], block_size: int
) -> SharedPrefix | None:
    """The largest set of rows whose first block is the same, as far as all their blocks [R, W] are;
    None where that saves too little.  Keys count as shared when every row has them cached."""
    most = int(context_lens.max(initial=0))
    if len(ids) < 2 or (len(ids) - 1) * most < LEAST_SAVED:
        return None
    _, inverse, counts = np.unique(ids[:, 0], return_inverse=True, return_counts=True)
    rows = np.flatnonzero(inverse.reshape(-1) == counts.argmax())
    whole = int(context_lens[rows].min()) // block_size
    if len(rows) < 2 or (len(rows) - 1) * whole * block_size < LEAST_SAVED:
        return None
    same = (ids[rows, :whole] == ids[rows[0], :whole]).all(axis=0)
    num_keys = (whole if same.all() else int(same.argmin())) * block_size
    return SharedPrefix(rows, num_keys) if (len(rows) - 1) * num_keys >= LEAST_SAVED else None
