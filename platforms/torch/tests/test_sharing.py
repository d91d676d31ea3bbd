"""What rows share is found from their block ids."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pagoda_torch.sharing import LEAST_SAVED, shared_prefix

BLOCK = 16
LONG = LEAST_SAVED // BLOCK  # blocks of which one row less to read is worth it


def tables(shared: list[int], width: int) -> npt.NDArray[np.int32]:
    """Rows of ids of their own but for so many first blocks of row 0's."""
    ids = np.arange(len(shared) * width, dtype=np.int32).reshape(len(shared), width)
    for row, count in enumerate(shared):
        ids[row, :count] = ids[0, :count]
    return ids


def lens(*blocks: int) -> npt.NDArray[np.int32]:
    return np.array(blocks, np.int32) * BLOCK + 3


def test_the_largest_set_as_far_as_all_of_it_is_the_same() -> None:
    ids = tables([LONG + 9, LONG + 4, 0, LONG + 7], LONG + 10)
    found = shared_prefix(ids, lens(*[LONG + 9] * 4), BLOCK)
    assert found is not None
    assert found.rows.tolist() == [0, 1, 3]
    assert found.num_keys == (LONG + 4) * BLOCK


def test_no_further_than_is_cached() -> None:
    """A row's ids past its own blocks may be anything, another row's too."""
    ids = tables([LONG + 9, LONG + 9], LONG + 9)
    found = shared_prefix(ids, lens(LONG + 9, LONG + 2), BLOCK)
    assert found is not None and found.num_keys == (LONG + 2) * BLOCK


def test_little_is_not_worth_it() -> None:
    assert shared_prefix(tables([LONG + 9, LONG - 1], LONG + 9), lens(LONG, LONG), BLOCK) is None
    assert shared_prefix(tables([0, 0], LONG + 9), lens(LONG + 5, LONG + 5), BLOCK) is None
    assert shared_prefix(tables([LONG], LONG), lens(LONG), BLOCK) is None
    many = [LONG // 8] * 9
    assert shared_prefix(tables(many, LONG // 8), lens(*many), BLOCK) is not None
